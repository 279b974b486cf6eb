use glm_models::config::Parameters;
use glm_models::plan;
use serde_json::{Map, Value, json};

use super::{ExpertSplit, Plan, Report, Verdict, key};

/// One object, on lines of its own.
pub(super) fn object(report: &Report) -> String {
    let (plan, demand) = (&report.plan, report.plan.demand());
    let Parameters { total, active, mtp } = report.sizes.config.parameters();
    let formats: Map<String, Value> = report
        .formats
        .iter()
        .map(|(name, plan)| ((*name).to_owned(), json!(plan.weights_bytes())))
        .collect();
    let mut object = json!({
        "model": report.sizes.name,
        "family": report.sizes.config.model_type(),
        "parameters": {"total": total, "active": active, "mtp": mtp},
        "dtype": demand.dtype.name(),
        "quantization": report.quantization(),
        "kv_dtype": report.kv_dtype,
        "mtp": demand.mtp,
        "context": demand.context,
        "batch": demand.batch,
        "checkpoint_bytes": plan::stored_sizes(&report.sizes.config)[0].bytes,
        "index_bytes": report.sizes.index_bytes,
        "weights_bytes": plan.weights_bytes(),
        "weights_bytes_by_part": by_part(plan),
        "weights_bytes_by_format": formats,
        "kv_bytes_per_token": plan.kv_bytes_per_token(),
        "kv_bytes": plan.load(&plan.layout_within(1, 0)).kv_bytes,
    });
    let keys = object.as_object_mut().expect("just made");
    match &report.verdict {
        Some(verdict) => keys.extend(on_gpus(verdict, plan)),
        None => {
            keys.extend(nulls());
            let rows = report.table.iter().map(|row| Value::Object(on_gpus(row, plan)));
            keys.insert("gpus".to_owned(), rows.collect());
        }
    }
    format!("{object:#}\n")
}

fn by_part(plan: &Plan) -> Map<String, Value> {
    let parts = plan.weights_by_part().into_iter();
    parts.map(|(part, bytes)| (key(part).to_owned(), json!(bytes))).collect()
}

fn nulls() -> Map<String, Value> {
    let keys = [
        "gpu",
        "fits",
        "devices_needed",
        "max_context",
        "decode_bound_tokens_per_s",
        "decode_bound_tokens_per_s_batch_1",
        "split",
        "per_device",
    ];
    keys.into_iter().map(|key| (key.to_owned(), Value::Null)).collect()
}

fn on_gpus(verdict: &Verdict, plan: &Plan) -> Map<String, Value> {
    let gpu = verdict.machine.gpu;
    let mut keys = nulls();
    let mut set = |key: &str, value: Value| drop(keys.insert(key.to_owned(), value));
    set(
        "gpu",
        json!({
            "name": gpu.name,
            "count": verdict.machine.count,
            "memory_gb": gpu.stated_gb,
            "usable_bytes": gpu.usable_bytes,
            "bandwidth_gb_per_s": gpu.bandwidth_gb_per_s,
        }),
    );
    set("fits", json!(verdict.fits));
    set("devices_needed", json!(verdict.devices_needed));
    let Some(on) = &verdict.divided else { return keys };
    set("max_context", json!(on.max_context));
    if let Some([one, all]) = on.decode_bound {
        set("decode_bound_tokens_per_s", json!(all));
        set("decode_bound_tokens_per_s_batch_1", json!(one));
    }
    let (experts, width) = match on.layout.experts {
        ExpertSplit::Whole(experts) => (Some(experts), None),
        ExpertSplit::Width(width) => (None, Some(width)),
    };
    set(
        "split",
        json!({
            "devices": on.layout.devices,
            "tensor": on.layout.tensor,
            "groups": on.layout.groups,
            "experts_per_device": experts,
            "expert_width_per_device": width,
        }),
    );
    set(
        "per_device",
        json!({
            "weights_bytes": on.load.weights_bytes,
            "kv_bytes": on.load.kv_bytes,
            "workspace_bytes": on.load.workspace_bytes,
            "total_bytes": on.load.total(),
            "step_bytes": plan.step_bytes(&on.layout, plan.demand().batch) as u64,
        }),
    );
    keys
}
