//! The host as a device: Burn's Flex backend, and what Linux says about the machine.

use std::fs;

use burn::tensor::Device;

use super::{BackendKind, Candidate, Memory};

/// The one CPU device.
pub(super) fn candidate() -> Candidate {
    Candidate {
        kind: BackendKind::Cpu,
        index: 0,
        name: Some(name()),
        software: false,
        automatic: true,
        caution: None,
        device: Device::flex(),
    }
}

/// Memory of the machine; nothing where there is no /proc.
pub(super) fn memory() -> Memory {
    fs::read_to_string("/proc/meminfo").map(|text| parse_memory(&text)).unwrap_or_default()
}

/// The processor's model, otherwise its architecture.
fn name() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    value(&info, "model name").map_or_else(|| std::env::consts::ARCH.into(), Into::into)
}

fn parse_memory(text: &str) -> Memory {
    let bytes = |key| {
        let kibibytes: u64 = value(text, key)?.strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes * 1024)
    };
    Memory { total: bytes("MemTotal"), free: bytes("MemAvailable") }
}

/// The text after `key :` in the first line that has it.
fn value<'text>(text: &'text str, key: &str) -> Option<&'text str> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_counts_what_can_be_had() {
        let text = "MemTotal:       16 kB\nMemFree:         1 kB\nMemAvailable:    8 kB\n";
        assert_eq!(parse_memory(text), Memory { total: Some(16384), free: Some(8192) });
        assert_eq!(parse_memory("nonsense"), Memory::default());
    }

    #[test]
    fn the_model_name_is_the_first_one() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\nmodel name\t: other\n";
        assert_eq!(value(text, "model name"), Some("Some CPU @ 2.00GHz"));
    }
}
