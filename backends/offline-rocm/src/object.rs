//! What a code object for AMD says of itself.

/// Values of the ELF header: <https://llvm.org/docs/AMDGPUUsage.html#elf-code-object>.
const ELF_64_LITTLE_ENDIAN: [u8; 6] = [0x7f, b'E', b'L', b'F', 2, 1];
const ABI_AMDGPU_HSA: u8 = 64;
const TYPE_SHARED_OBJECT: u16 = 3;
const MACHINE_AMDGPU: u16 = 224;

/// What a kernel takes of a device, by the metadata of its code object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    /// Vector registers of a unit.
    pub(crate) vector_registers: u32,
    /// Scalar registers of a plane.
    pub(crate) scalar_registers: u32,
    /// Bytes of memory of a unit, for values that do not fit registers.
    pub(crate) scratch: u32,
    /// Vector registers that are kept there.
    pub(crate) spilled: u32,
}

/// Whether bytes are a code object of an architecture that holds a kernel.
pub(crate) fn check(object: &[u8], architecture: &str, entry: &str) -> Result<Resources, String> {
    let half = |at: usize| object.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    if object.len() < 64 || !object.starts_with(&ELF_64_LITTLE_ENDIAN) {
        return Err("not an ELF file of 64 bits".into());
    }
    let header = (object[7], half(16), half(18));
    if header != (ABI_AMDGPU_HSA, Some(TYPE_SHARED_OBJECT), Some(MACHINE_AMDGPU)) {
        return Err(format!("not a code object of AMD: ABI, type and machine are {header:?}"));
    }
    let wanted = match architecture {
        "gfx942" => 0x4c,
        "gfx1100" => 0x41,
        other => return Err(format!("nobody knows the number of {other}")),
    };
    if object[48] != wanted {
        return Err(format!("machine {:#x}, not {wanted:#x}", object[48]));
    }
    // The descriptor that a launch looks up.
    let descriptor = format!("\0{entry}.kd\0");
    if position(object, descriptor.as_bytes()).is_none() {
        return Err(format!("no kernel `{entry}`"));
    }
    let number = |key| metadata(object, key).ok_or_else(|| format!("no `{key}`"));
    Ok(Resources {
        vector_registers: number(".vgpr_count")?,
        scalar_registers: number(".sgpr_count")?,
        scratch: number(".private_segment_fixed_size")?,
        spilled: number(".vgpr_spill_count")?,
    })
}

/// A number of the metadata, which is MessagePack.
fn metadata(object: &[u8], key: &str) -> Option<u32> {
    let value = &object[position(object, key.as_bytes())? + key.len()..];
    match *value.first()? {
        small @ 0..=0x7f => Some(u32::from(small)),
        0xcc => value.get(1).map(|byte| u32::from(*byte)),
        0xcd => value.get(1..3).map(|b| u32::from(u16::from_be_bytes([b[0], b[1]]))),
        0xce => value.get(1..5).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]])),
        _ => None,
    }
}

fn position(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

#[test]
fn what_is_no_code_object_is_refused() {
    let header = |machine: u16, flags: u8| {
        let mut object = vec![0; 64];
        object[..6].copy_from_slice(&ELF_64_LITTLE_ENDIAN);
        object[7] = ABI_AMDGPU_HSA;
        object[16..18].copy_from_slice(&TYPE_SHARED_OBJECT.to_le_bytes());
        object[18..20].copy_from_slice(&machine.to_le_bytes());
        object[48] = flags;
        object
    };
    let refused = |object: &[u8], why: &str| {
        let said = check(object, "gfx942", "k").expect_err(why);
        assert!(said.contains(why), "{said}");
    };
    refused(b"\x7fELF", "not an ELF file");
    refused(&header(62, 0x4c), "not a code object of AMD");
    refused(&header(MACHINE_AMDGPU, 0x41), "machine 0x41");
    refused(&header(MACHINE_AMDGPU, 0x4c), "no kernel `k`");
}

#[test]
fn numbers_of_the_metadata_are_found() {
    let counts = [(&b"\x07"[..], 7), (&b"\xcc\xf2"[..], 242), (&b"\xcd\x02\x00"[..], 512)];
    for (bytes, count) in counts {
        let object = [b"..\xab.vgpr_count", bytes].concat();
        assert_eq!(metadata(&object, ".vgpr_count"), Some(count));
    }
    assert_eq!(metadata(b"....", ".vgpr_count"), None);
}
