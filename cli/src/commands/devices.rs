//! `glm devices`: what each backend sees.

use anyhow::Result;
use glm_backends::device::{self, DeviceInfo, Listing};
use serde_json::{Value, json};

use super::Outcome;
use crate::args::DevicesArgs;
use crate::ui;

/// Prints a table, or one JSON array.
pub(crate) fn devices(args: &DevicesArgs) -> Result<Outcome> {
    let listings = device::list();
    if args.json {
        let all: Vec<Value> = listings.iter().map(as_json).collect();
        ui::output(&format!("{:#}\n", Value::Array(all)))?;
    } else {
        ui::output(&ui::table(
            &["BACKEND", "NAME", "MEMORY", "NUMBER FORMATS"],
            &listings.iter().map(row).collect::<Vec<_>>(),
        ))?;
    }
    Ok(Outcome::Done)
}

fn row(listing: &Listing) -> Vec<String> {
    match listing {
        Listing::Found(DeviceInfo {
            backend, index, name, memory_bytes, dtypes, software, ..
        }) => vec![
            format!("{backend}:{index}"),
            if *software { format!("{name} (software)") } else { name.clone() },
            memory_bytes.map_or_else(|| "?".to_owned(), ui::bytes),
            dtypes.join(" "),
        ],
        Listing::Absent { backend, reason } => vec![backend.to_string(), format!("none: {reason}")],
    }
}

fn as_json(listing: &Listing) -> Value {
    match listing {
        Listing::Found(info) => json!({
            "backend": info.backend.to_string(),
            "index": info.index,
            "available": true,
            "name": info.name,
            "memory_bytes": info.memory_bytes,
            "dtypes": info.dtypes,
            "software": info.software,
        }),
        Listing::Absent { backend, reason } => json!({
            "backend": backend.to_string(),
            "available": false,
            "reason": reason,
        }),
    }
}
