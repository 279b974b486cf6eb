//! Known GPUs, by the names that people type.

use std::str::FromStr;

/// A kind of GPU.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gpu {
    /// Its short name.
    pub name: &'static str,
    /// Memory as the vendor states it, in GB.
    pub stated_gb: f64,
    /// Bytes that its driver reports or, where CPU and GPU share the memory, lets the GPU use.
    pub usable_bytes: u64,
    /// Memory bandwidth as the vendor states it, in GB/s; `None` where nobody said it.
    pub bandwidth_gb_per_s: Option<f64>,
}

impl Gpu {
    /// A GPU that is not in the table, of `gigabytes` · 10⁹ bytes.
    #[must_use]
    pub fn custom(gigabytes: f64, bandwidth_gb_per_s: Option<f64>) -> Self {
        let usable_bytes = (gigabytes * 1e9) as u64;
        Self { name: "custom", stated_gb: gigabytes, usable_bytes, bandwidth_gb_per_s }
    }
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const fn gpu(name: &'static str, stated_gb: u32, usable_mib: u64, gb_per_s: u32) -> Gpu {
    Gpu {
        name,
        stated_gb: stated_gb as f64,
        usable_bytes: usable_mib * MIB,
        bandwidth_gb_per_s: Some(gb_per_s as f64),
    }
}

/// Apple's GPUs may use two thirds of up to 36 GB, and three quarters of more
/// (Metal's `recommendedMaxWorkingSetSize`).
const fn apple(name: &'static str, stated_gb: u32, gb_per_s: u32) -> Gpu {
    let whole = stated_gb as u64 * GIB;
    let usable_bytes = if stated_gb <= 36 { whole / 3 * 2 } else { whole / 4 * 3 };
    let bandwidth_gb_per_s = Some(gb_per_s as f64);
    Gpu { name, stated_gb: stated_gb as f64, usable_bytes, bandwidth_gb_per_s }
}

/// Stated memory and bandwidth from the vendors' data sheets (the SXM form of NVIDIA's data-centre
/// GPUs), usable memory in MiB from what `nvidia-smi` and `rocm-smi` report for the whole device.
const KNOWN: &[Gpu] = &[
    gpu("H100", 80, 81_559, 3350),
    gpu("H200", 141, 143_771, 4800),
    gpu("H20", 96, 97_871, 4000),
    gpu("B200", 180, 183_359, 8000),
    gpu("A100-40GB", 40, 40_960, 1555),
    gpu("A100-80GB", 80, 81_920, 2039),
    gpu("L40S", 48, 46_068, 864),
    gpu("RTX-4090", 24, 24_564, 1008),
    gpu("RTX-5090", 32, 32_607, 1792),
    gpu("MI300X", 192, 196_592, 5300),
    gpu("MI325X", 256, 262_128, 6000),
    gpu("MI355X", 288, 294_896, 8000),
    gpu("RX-7900-XTX", 24, 24_560, 960),
    apple("M1-Max-32GB", 32, 400),
    apple("M1-Max-64GB", 64, 400),
    apple("M1-Ultra-64GB", 64, 800),
    apple("M1-Ultra-128GB", 128, 800),
    apple("M2-Max-32GB", 32, 400),
    apple("M2-Max-64GB", 64, 400),
    apple("M2-Max-96GB", 96, 400),
    apple("M2-Ultra-64GB", 64, 800),
    apple("M2-Ultra-128GB", 128, 800),
    apple("M2-Ultra-192GB", 192, 800),
    apple("M3-Max-36GB", 36, 300),
    apple("M3-Max-48GB", 48, 400),
    apple("M3-Max-64GB", 64, 400),
    apple("M3-Max-96GB", 96, 300),
    apple("M3-Max-128GB", 128, 400),
    apple("M3-Ultra-96GB", 96, 819),
    apple("M3-Ultra-256GB", 256, 819),
    apple("M3-Ultra-512GB", 512, 819),
    apple("M4-Max-36GB", 36, 410),
    apple("M4-Max-48GB", 48, 546),
    apple("M4-Max-64GB", 64, 546),
    apple("M4-Max-128GB", 128, 546),
];

/// What a table of common GPUs shows.
const COMMON: [&str; 11] = [
    "H100",
    "H200",
    "B200",
    "A100-80GB",
    "L40S",
    "RTX-4090",
    "RTX-5090",
    "MI300X",
    "MI355X",
    "RX-7900-XTX",
    "M3-Ultra-512GB",
];

/// Other words for the same; the left side as [`plain`] leaves it.
const ALIASES: [(&str, &str); 1] = [("a100", "A100-80GB")];

/// Words that people put before a name.
const BRANDS: [&str; 9] =
    ["nvidia", "geforce", "rtx", "amd", "radeon", "instinct", "rx", "apple", "tesla"];

/// Most devices that can be asked for.
const MOST: usize = 1024;

/// Every GPU of the table.
#[must_use]
pub fn known() -> &'static [Gpu] {
    KNOWN
}

/// The GPUs that many people have or rent.
pub fn common() -> impl Iterator<Item = Gpu> {
    KNOWN.iter().filter(|gpu| COMMON.contains(&gpu.name)).copied()
}

/// What `8xH100`, `H100` or, for a GPU that is described otherwise, `8x` asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GpuChoice {
    /// How many; as many as are needed where it is not said.
    pub count: Option<usize>,
    /// Of which kind, where a name is given.
    pub gpu: Option<Gpu>,
}

impl FromStr for GpuChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let word = plain(text);
        // Whole names first: that of the 7900XTX looks like a count, too.
        if let Some(gpu) = find(&word) {
            return Ok(Self { count: None, gpu: Some(gpu) });
        }
        let digits = word.bytes().take_while(u8::is_ascii_digit).count();
        let (count, rest) = word.split_at(digits);
        let name = rest.strip_prefix(['x', '×', '*']).unwrap_or(rest);
        if count.is_empty() || (name.len() == rest.len() && !rest.is_empty()) {
            return Err(unknown(text));
        }
        let count = count.parse().ok().filter(|count| (1..=MOST).contains(count));
        let count = count.ok_or_else(|| format!("`{text}`: wanted 1 to {MOST} devices"))?;
        match find(name) {
            None if !name.is_empty() => Err(unknown(text)),
            gpu => Ok(Self { count: Some(count), gpu }),
        }
    }
}

/// Lower case, without what people put between the parts of a name.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !" -_".contains(*c)).flat_map(char::to_lowercase).collect()
}

fn find(word: &str) -> Option<Gpu> {
    let mut word = word;
    while let Some(rest) = BRANDS.iter().find_map(|brand| word.strip_prefix(brand)) {
        word = rest;
    }
    let word = word.strip_suffix("gb").unwrap_or(word);
    let alias = ALIASES.iter().find(|(alias, _)| *alias == word).map(|(_, name)| *name);
    let is_meant = |gpu: &&Gpu| {
        let name = plain(gpu.name);
        let name = BRANDS.iter().find_map(|brand| name.strip_prefix(brand)).unwrap_or(&name);
        alias == Some(gpu.name) || name.strip_suffix("gb").unwrap_or(name) == word
    };
    KNOWN.iter().find(is_meant).copied()
}

fn unknown(text: &str) -> String {
    let names: Vec<_> = KNOWN.iter().map(|gpu| gpu.name).collect();
    format!(
        "`{text}` is not known; known are {}, with a count before them as in 8xH100; any other \
         is described by --gpu-memory and --bandwidth",
        names.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_as_people_write_them() {
        for (text, count, name) in [
            ("H100", None, "H100"),
            ("8xH100", Some(8), "H100"),
            ("8 x h100", Some(8), "H100"),
            ("2X NVIDIA H200", Some(2), "H200"),
            ("a100", None, "A100-80GB"),
            ("4xA100-40", Some(4), "A100-40GB"),
            ("a100 80gb", None, "A100-80GB"),
            ("4090", None, "RTX-4090"),
            ("2xrtx_5090", Some(2), "RTX-5090"),
            ("GeForce RTX 4090", None, "RTX-4090"),
            ("7900XTX", None, "RX-7900-XTX"),
            ("3x7900xtx", Some(3), "RX-7900-XTX"),
            ("AMD Instinct MI300X", None, "MI300X"),
            ("m4 max 128", None, "M4-Max-128GB"),
            ("Apple M3-Ultra-512GB", None, "M3-Ultra-512GB"),
        ] {
            let choice: GpuChoice = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((choice.count, choice.gpu.map(|gpu| gpu.name)), (count, Some(name)));
        }
        for text in ["8x", "8"] {
            assert_eq!(text.parse(), Ok(GpuChoice { count: Some(8), gpu: None }), "{text}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused_with_what_is() {
        for text in ["", "x", "H1000", "8xfoo", "xH100", "8H100x", "m9 max 128"] {
            let error = text.parse::<GpuChoice>().expect_err(text);
            assert!(error.contains(&format!("`{text}`")) && error.contains("H200"), "{error}");
        }
        for text in ["0xH100", "1025xH100", "99999999999999999999xH100"] {
            let error = text.parse::<GpuChoice>().expect_err(text);
            assert!(error.contains("1 to 1024"), "{error}");
        }
    }

    #[test]
    fn the_table_is_plausible() {
        for (index, gpu) in KNOWN.iter().enumerate() {
            let stated = gpu.stated_gb * GIB as f64;
            let share = gpu.usable_bytes as f64 / stated;
            assert!((0.66..1.01).contains(&share), "{}: {share}", gpu.name);
            assert!(KNOWN[..index].iter().all(|other| other.name != gpu.name), "{}", gpu.name);
            let typed: GpuChoice = gpu.name.parse().expect(gpu.name);
            assert_eq!(typed.gpu, Some(*gpu));
        }
        assert_eq!(common().count(), COMMON.len());
    }
}
