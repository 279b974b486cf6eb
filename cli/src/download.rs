//! Models from a hub, with the transfers shown.

use std::cell::RefCell;
use std::env;
use std::path::PathBuf;

use anyhow::Result;
use glm_runtime::hub::{self, DownloadProgress, FileProgress, HubConfig, Wanted};

use crate::args::{self, SourceArgs};
use crate::resolve::variable;
use crate::ui;

/// The folder of a hub model, with `wanted` of it downloaded and the transfers shown.
pub(crate) fn download(id: &str, source: &SourceArgs, wanted: Wanted<'_>) -> Result<PathBuf> {
    let hub = match source.hub {
        args::Hub::Huggingface => hub::Hub::HuggingFace,
        args::Hub::Modelscope => hub::Hub::ModelScope,
    };
    let home = env::home_dir().unwrap_or_default();
    let mut config = HubConfig::from_lookup(hub, &variable, &home);
    config.revision.clone_from(&source.revision);
    Ok(hub::resolve(&config, id, wanted, &Transfers::default())?)
}

/// A bar for each transfer of a file.
#[derive(Default)]
struct Transfers {
    /// The bar of the file with this index.
    bar: RefCell<Option<(usize, ui::Bar)>>,
}

impl DownloadProgress for Transfers {
    fn update(&self, file: &FileProgress<'_>) {
        let mut bar = self.bar.borrow_mut();
        // The old bar leaves its line before the new one takes it.
        bar.take_if(|(index, _)| *index != file.index);
        let (_, bar) = bar.get_or_insert_with(|| {
            let name = format!("[{}/{}] {}", file.index, file.files, short(file.name));
            (file.index, ui::Bar::bytes_after(name, file.done_bytes))
        });
        bar.set(file.done_bytes, file.total_bytes);
    }

    fn note(&self, text: &str) {
        // Whatever comes next, another attempt say, is a transfer of its own.
        self.bar.take();
        ui::note(text);
    }
}

/// A file's name in at most 22 characters, so that 80 columns have room for the bar.
fn short(name: &str) -> String {
    let name = name.strip_suffix(".safetensors").unwrap_or(name);
    match name.chars().count() {
        0..=22 => name.to_owned(),
        length => format!("…{}", name.chars().skip(length - 21).collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_leave_room_for_the_bar() {
        for (name, wanted) in [
            ("model-00001-of-00046.safetensors", "model-00001-of-00046"),
            ("generation_config.json", "generation_config.json"),
            ("model.safetensors.index.json", "…afetensors.index.json"),
        ] {
            assert_eq!(short(name), wanted);
        }
    }
}
