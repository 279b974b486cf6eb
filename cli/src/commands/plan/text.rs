use glm_models::plan;

use super::{Divided, ExpertSplit, Part, Report, Verdict};
use crate::ui::{count, decimal_bytes, table};

/// What a person reads.
pub(super) fn page(report: &Report) -> String {
    let parameters = report.sizes.config.parameters();
    let demand = report.plan.demand();
    let mut page = String::new();
    let mut line = |what: &str, value: String| page += &format!("{what:16}{value}\n");
    let family = report.sizes.config.model_type();
    line("model", format!("{} ({family})", report.sizes.name));
    line(
        "parameters",
        format!(
            "{} total, {} active per token; {} more in prediction (MTP) layers",
            count(parameters.total),
            count(parameters.active),
            count(parameters.mtp)
        ),
    );
    let stored = plan::stored_sizes(&report.sizes.config);
    let checkpoint = format!("{} by config.json", decimal_bytes(stored[0].bytes));
    let index = report.index_says().map(|said| format!("; {said}"));
    line("checkpoint", checkpoint + &index.unwrap_or_default());
    let format = match report.quantization() {
        "fp8" => format!("FP8, the rest in {}", demand.dtype.name()),
        _ => demand.dtype.name().to_owned(),
    };
    let mtp = if demand.mtp { ", prediction layer included" } else { "" };
    line("weights", format!("{} in {format}{mtp}", decimal_bytes(report.plan.weights_bytes())));
    line(
        "KV cache",
        format!(
            "{} per token, {} for {}, in {}",
            decimal_bytes(report.plan.kv_bytes_per_token()),
            decimal_bytes(report.plan.load(&report.plan.layout_within(1, 0)).kv_bytes),
            sequences(demand.batch, demand.context),
            report.kv_dtype,
        ),
    );
    page += "\n";
    page += &weights(report);
    page += "\n";
    match &report.verdict {
        Some(verdict) => page += &on_gpus(verdict, report),
        None => page += &common(report),
    }
    page
}

/// Bytes by kind in every format.
fn weights(report: &Report) -> String {
    let parts: Vec<Vec<(Part, u64)>> =
        report.formats.iter().map(|(_, plan)| plan.weights_by_part()).collect();
    let mut heading = vec!["WEIGHTS"];
    heading.extend(report.formats.iter().map(|(name, _)| match *name {
        "bf16" => "BF16",
        "f16" => "F16",
        "f32" => "F32",
        "fp8_f32" => "FP8 AND F32",
        _ => "FP8 AND BF16",
    }));
    let mut rows: Vec<Vec<String>> = parts[0]
        .iter()
        .enumerate()
        .map(|(row, (part, _))| {
            let mut cells = vec![name(*part).to_owned()];
            cells.extend(parts.iter().map(|format| decimal_bytes(format[row].1)));
            cells
        })
        .collect();
    let mut total = vec!["all".to_owned()];
    total.extend(report.formats.iter().map(|(_, plan)| decimal_bytes(plan.weights_bytes())));
    rows.push(total);
    table(&heading, &rows)
}

fn name(part: Part) -> &'static str {
    match part {
        Part::Embedding => "embedding",
        Part::Head => "head",
        Part::Norm => "norms",
        Part::Attention => "attention",
        Part::DenseMlp => "dense layers",
        Part::Router => "routers",
        Part::RoutedExperts => "experts",
        Part::SharedExpert => "shared experts",
        Part::Prediction => "MTP projection",
    }
}

fn on_gpus(verdict: &Verdict, report: &Report) -> String {
    let demand = report.plan.demand();
    let gpu = verdict.machine.gpu;
    let bandwidth = match gpu.bandwidth_gb_per_s {
        Some(bandwidth) => format!(", {bandwidth} GB/s"),
        None => String::new(),
    };
    let usable = decimal_bytes(gpu.usable_bytes);
    let each = format!("{} (sold as {} GB, {usable} usable{bandwidth})", gpu.name, gpu.stated_gb);
    let mut page = String::new();
    let mut line = |what: &str, value: String| page += &format!("{what:16}{value}\n");
    match verdict.machine.count {
        Some(count) => line("GPUs", format!("{count} x {each}")),
        None => line("GPUs", each),
    }
    let needed = match verdict.devices_needed {
        Some(needed) => format!("needs {needed} of them"),
        None => "does not fit on any number of them up to 128 that it divides over".to_owned(),
    };
    let answer = match (verdict.fits, verdict.machine.count) {
        (true, Some(_)) => format!("yes; {needed}"),
        (true, None) => needed,
        (false, _) => format!("no; {needed}"),
    };
    line("fits", format!("{answer}, for {}", sequences(demand.batch, demand.context)));
    let Some(on) = &verdict.divided else { return page };
    let idle = verdict.machine.count.map_or(0, |count| count.saturating_sub(on.layout.devices));
    let idle = match idle {
        0 => String::new(),
        idle => format!("; {idle} of them idle"),
    };
    line("split", split(on) + &idle);
    line(
        "each device",
        format!(
            "{} weights + {} cache + {} workspace (estimated) = {} of {}",
            decimal_bytes(on.load.weights_bytes),
            decimal_bytes(on.load.kv_bytes),
            decimal_bytes(on.load.workspace_bytes),
            decimal_bytes(on.load.total()),
            decimal_bytes(gpu.usable_bytes),
        ),
    );
    line(
        "context",
        match on.max_context {
            Some(context) => format!("up to {}", sequences(demand.batch, context)),
            None => "none fits".to_owned(),
        },
    );
    line(
        "decode",
        match on.decode_bound {
            _ if !verdict.fits => "no bound where it does not fit".to_owned(),
            None => "unknown without --bandwidth".to_owned(),
            Some([one, all]) => {
                let all = match demand.batch {
                    1 => String::new(),
                    batch => format!(", {} for {batch} sequences together", rate(all)),
                };
                format!("at most {} tokens/s for one sequence{all}", rate(one))
            }
        },
    );
    page + "\n" + BOUND + divided_note(on.layout.devices)
}

const BOUND: &str = "\
The speed is a bound, not a forecast: the time to read weights and cache once a step at the full
context, without computing, links between GPUs, or drafts. Of several sequences together it takes
tokens to spread over the experts evenly.
";

fn divided_note(devices: usize) -> &'static str {
    if devices == 1 {
        return "";
    }
    "glm itself runs on one device today; the split is what the sizes allow.\n"
}

fn split(on: &Divided) -> String {
    let layout = on.layout;
    if layout.devices == 1 {
        return "none, all on one device".to_owned();
    }
    let attention = match layout.groups {
        1 => format!("attention and dense layers over all {}", layout.devices),
        _ if layout.tensor == 1 => {
            "attention and dense layers whole on each, with its own sequences".to_owned()
        }
        groups => format!(
            "attention and dense layers over {} ({groups} copies, each with its own sequences)",
            layout.tensor
        ),
    };
    let experts = match layout.experts {
        ExpertSplit::Whole(1) => "1 expert of a layer on each".to_owned(),
        ExpertSplit::Whole(experts) => format!("{experts} experts of a layer on each"),
        ExpertSplit::Width(width) => format!("every expert over all, {width} wide on each"),
    };
    format!("{attention}; {experts}; embedding, head and routers whole on each")
}

/// How many of each common GPU it takes.
fn common(report: &Report) -> String {
    let demand = report.plan.demand();
    let row = |verdict: &Verdict| {
        let gpu = verdict.machine.gpu;
        let mut cells = vec![gpu.name.to_owned(), format!("{} GB", gpu.stated_gb)];
        let (Some(needed), Some(on)) = (verdict.devices_needed, &verdict.divided) else {
            cells.push("does not fit on any number that it divides over".to_owned());
            return cells;
        };
        cells.push(needed.to_string());
        cells.push(decimal_bytes(on.load.total()));
        cells.push(on.max_context.map_or_else(String::new, |context| context.to_string()));
        cells.push(on.decode_bound.map_or_else(String::new, |[_, all]| rate(all)));
        cells
    };
    let rows: Vec<Vec<String>> = report.table.iter().map(row).collect();
    let heading = ["GPU", "MEMORY", "NEEDED", "ON EACH", "LONGEST CONTEXT", "TOKENS/S AT MOST"];
    let what = sequences(demand.batch, demand.context);
    let divides = report.table.iter().filter_map(|verdict| verdict.devices_needed).any(|n| n > 1);
    format!(
        "GPUs that it takes for {what}:\n\n{}\n{BOUND}{}",
        table(&heading, &rows),
        divided_note(if divides { 2 } else { 1 })
    )
}

fn sequences(batch: usize, context: usize) -> String {
    match batch {
        1 => format!("{context} tokens"),
        batch => format!("{batch} x {context} tokens"),
    }
}

fn rate(tokens_per_second: f64) -> String {
    match tokens_per_second {
        rate if rate < 10.0 => format!("{rate:.1}"),
        rate => format!("{rate:.0}"),
    }
}
