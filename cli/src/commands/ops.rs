//! `glm inspect ops`: how each operation is computed on a device.

use anyhow::Result;
use glm_backends::device;
use glm_backends::ops::{self, OpPath};
use glm_models::plan::DType;
use serde_json::{Value, json};

use super::Outcome;
use crate::args::InspectArgs;
use crate::ui;

/// Prints a table, or one JSON object.
pub(crate) fn show(args: &InspectArgs) -> Result<Outcome> {
    let opened = device::open(&args.engine.backend)?;
    ops::use_reference_only(args.reference_ops);
    let (dtype, _) = match args.engine.dtype.dtype() {
        Some(dtype) => opened.nearest_float(dtype),
        None => opened.auto_float(DType::BF16),
    };
    let paths = ops::paths(&opened.device, dtype);
    if args.json {
        let entry =
            |path: &OpPath| json!({"op": path.op, "path": path.path.name(), "how": path.how});
        let all = json!({
            "device": opened.label(),
            "dtype": dtype.name(),
            "ops": paths.iter().map(entry).collect::<Vec<Value>>(),
        });
        ui::output(&format!("{all:#}\n"))?;
    } else {
        ui::note(format!("{} in {}", opened.label(), dtype.name()));
        let row =
            |path: &OpPath| vec![path.op.to_owned(), path.path.name().to_owned(), path.how.clone()];
        let rows: Vec<_> = paths.iter().map(row).collect();
        ui::output(&ui::table(&["OPERATION", "PATH", "HOW"], &rows))?;
    }
    Ok(Outcome::Done)
}
