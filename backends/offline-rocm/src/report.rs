//! What became of the kernels of a job.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;

use crate::job::Job;
use crate::object::Resources;

/// A kernel that was compiled.
#[derive(Debug, Clone)]
pub(crate) struct Built {
    /// The name of its entry.
    pub(crate) entry: String,
    /// Units of a cube.
    pub(crate) units: u32,
    /// Bytes of shared memory.
    pub(crate) shared: usize,
    pub(crate) resources: Option<Resources>,
    pub(crate) file: PathBuf,
}

/// What became of a kernel.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) op: String,
    pub(crate) dtype: String,
    pub(crate) name: String,
    pub(crate) result: Result<Built, String>,
}

/// What became of all of them.
pub(crate) struct Report {
    pub(crate) job: Job,
    /// What compiled them.
    pub(crate) compiler: &'static str,
    pub(crate) outcomes: Vec<Outcome>,
    /// Kernels that were not compiled for want of a header.
    pub(crate) left_out: usize,
}

impl Built {
    /// A line for [`Built::read`].
    pub(crate) fn written(&self) -> String {
        let Built { entry, units, shared, resources, file } = self;
        let file = file.display();
        let mut line = format!("{entry}\t{file}\t{units}\t{shared}");
        if let Some(taken) = resources {
            let Resources { vector_registers, scalar_registers, scratch, spilled } = taken;
            line += &format!("\t{vector_registers}\t{scalar_registers}\t{scratch}\t{spilled}");
        }
        line
    }

    /// # Panics
    /// When these are no parts of such a line.
    pub(crate) fn read(parts: &[&str]) -> Self {
        let numbers = parts[2..].iter().map(|part| part.parse().expect("a number"));
        let numbers: Vec<u32> = numbers.collect();
        let resources = match numbers[2..] {
            [vector_registers, scalar_registers, scratch, spilled] => {
                Some(Resources { vector_registers, scalar_registers, scratch, spilled })
            }
            _ => None,
        };
        Built {
            entry: parts[0].to_owned(),
            file: parts[1].into(),
            units: numbers[0],
            shared: numbers[1] as usize,
            resources,
        }
    }
}

impl Outcome {
    pub(crate) const ENDED: &str = "the compiler ended its process,";

    pub(crate) fn begun(op: &str, dtype: &str, name: &str) -> Self {
        let result = Err(String::new());
        Outcome { op: op.into(), dtype: dtype.into(), name: name.into(), result }
    }

    pub(crate) fn ended_the_worker(&self) -> bool {
        self.result.as_ref().is_err_and(|reason| reason.starts_with(Outcome::ENDED))
    }
}

impl Report {
    pub(crate) fn failed(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.result.is_err()).count()
    }

    /// One line.
    pub(crate) fn summary(&self) -> String {
        let (all, failed) = (self.outcomes.len(), self.failed());
        let Job { architecture, .. } = self.job;
        let compiler = self.compiler;
        let mut line =
            format!("{architecture:<8} {compiler:<12} {} compiled, {failed} failed", all - failed);
        if self.left_out > 0 {
            line += &format!(", {} left out for want of rocWMMA's header", self.left_out);
        }
        line
    }
}

/// Kernels of a name, and the most that one of them takes.
#[derive(Default)]
struct Entry {
    forms: usize,
    units: u32,
    shared: usize,
    resources: Option<Resources>,
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut table: BTreeMap<&str, Entry> = BTreeMap::new();
        // Reasons, and what failed by them.
        let mut failures: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
        for outcome in &self.outcomes {
            match &outcome.result {
                Ok(built) => {
                    // The name ends with a hash of what the kernel was made for.
                    let name = built.entry.rsplit_once('_').map_or(&*built.entry, |(name, _)| name);
                    table.entry(name).or_default().add(built);
                }
                Err(reason) => failures.entry(reason).or_default().push(outcome),
            }
        }
        writeln!(f, "\n{}", self.summary())?;
        for (index, (name, entry)) in table.into_iter().enumerate() {
            let Entry { forms, units, shared, resources } = entry;
            // Of sources there is nothing to tell.
            let Some(taken) = resources else { break };
            let Resources { vector_registers, scalar_registers, scratch, spilled } = taken;
            if index == 0 {
                writeln!(f, "{:<56} forms units shared vector scalar scratch spilled", "kernel")?;
            }
            write!(f, "{name:<56} {forms:>5} {units:>5} {shared:>6} {vector_registers:>6}")?;
            writeln!(f, " {scalar_registers:>6} {scratch:>7} {spilled:>7}")?;
        }
        for (reason, outcomes) in failures {
            let first: Vec<&str> = reason.lines().take(12).collect();
            writeln!(f, "\nfailed, {} kernels: {}", outcomes.len(), first.join("\n    "))?;
            let mut kernels = BTreeMap::new();
            for Outcome { op, dtype, name, .. } in outcomes {
                *kernels.entry((op, dtype, name)).or_insert(0) += 1;
            }
            for ((op, dtype, name), forms) in kernels {
                writeln!(f, "    {op}, {dtype}: {name}, {forms} forms")?;
            }
        }
        Ok(())
    }
}

impl Entry {
    fn add(&mut self, built: &Built) {
        self.forms += 1;
        self.units = self.units.max(built.units);
        self.shared = self.shared.max(built.shared);
        if let Some(new) = built.resources {
            let most = self.resources.get_or_insert_default();
            most.vector_registers = most.vector_registers.max(new.vector_registers);
            most.scalar_registers = most.scalar_registers.max(new.scalar_registers);
            most.scratch = most.scratch.max(new.scratch);
            most.spilled = most.spilled.max(new.spilled);
        }
    }
}
