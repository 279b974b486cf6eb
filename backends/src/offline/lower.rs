//! From a launch to the language of a compiler, within the limits of a device.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cubecl::ir::DeviceProperties;
use cubecl::{Compiler, define_kernel};
use cubecl_server::kernel::CompiledKernel;
use cubecl_server::validation::{validate_cube_dim, validate_units};

use super::server::Launch;

impl Launch {
    /// Holds cubes, units and buffers against what a device takes.
    pub fn fits(&self, limits: &DeviceProperties) -> Result<(), String> {
        let hardware = &limits.hardware;
        validate_cube_dim(limits, &self.id).map_err(|error| error.to_string())?;
        validate_units(limits, &self.id).map_err(|error| error.to_string())?;
        let most: [u32; 3] = hardware.max_cube_count.into();
        if self.cubes.iter().zip(most).any(|(cubes, most)| *cubes > most) {
            return Err(format!("{:?} cubes, at most {most:?}", self.cubes));
        }
        if self.buffers > hardware.max_bindings as usize {
            return Err(format!("{} buffers, at most {}", self.buffers, hardware.max_bindings));
        }
        Ok(())
    }

    /// Expands and compiles the kernel.
    pub fn lower<C: Compiler>(
        &self,
        compiler: &mut C,
        options: &C::CompilationOptions,
    ) -> Result<CompiledKernel<C>, String> {
        let definition = define_kernel(&*self.kernel).map_err(|error| error.to_string())?;
        CompiledKernel::compile(&*self.kernel, definition, compiler, options)
            .map_err(|error| error.to_string())
    }
}

/// What a compiler answers; a panic of it is an error.
pub fn unless_it_panics<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| match panic.downcast_ref::<String>() {
        Some(message) => format!("the compiler panicked: {message}"),
        None => "the compiler panicked".into(),
    })?
}

/// Refuses more shared memory than a device has.
pub fn shares_at_most(shared: usize, limits: &DeviceProperties) -> Result<(), String> {
    let most = limits.hardware.max_shared_memory_size;
    if shared > most {
        return Err(format!("{shared} bytes of shared memory, at most {most}"));
    }
    Ok(())
}
