//! What is compiled, and how.

use cubecl::hip::compiler::HipBackend;
use cubecl_llvm::shared::lowered_features::{GpuTarget, restrict_features};
use glm_backends::offline::{Described, hip_device, hip_options};

use crate::ARCHITECTURES;

/// From kernels to what a driver takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// Code objects, by LLVM and LLD inside of cubecl-llvm.
    Llvm,
    /// C++ for hipRTC.
    Cpp,
}

/// A route for an architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) architecture: &'static str,
    pub(crate) route: Route,
}

impl Route {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Route::Llvm => "llvm",
            Route::Cpp => "cpp",
        }
    }

    /// What does the work.
    pub(crate) fn compiler(self) -> &'static str {
        match self {
            Route::Llvm => "cubecl-llvm",
            Route::Cpp => "cubecl-cpp",
        }
    }

    pub(crate) fn backend(self) -> HipBackend {
        match self {
            Route::Llvm => HipBackend::Llvm,
            Route::Cpp => HipBackend::Cpp,
        }
    }
}

impl Job {
    /// # Panics
    /// When there is no such job.
    pub(crate) fn named(architecture: &str, route: &str) -> Self {
        let known = ARCHITECTURES.into_iter().find(|known| *known == architecture);
        let routes = [Route::Llvm, Route::Cpp];
        let route = routes.into_iter().find(|known| known.name() == route);
        Job {
            architecture: known.expect("an architecture of the list"),
            route: route.expect("a route of the list"),
        }
    }

    /// The device that ops find: cubecl-hip takes away what LLVM does not have.
    pub(crate) fn device(self) -> Described {
        let mut device = hip_device(self.architecture);
        if self.route == Route::Llvm {
            let gfx = hip_options(self.architecture).arch.expect("an architecture");
            let target = GpuTarget::AmdGpu { wmma: gfx.wmma() };
            restrict_features(&mut device.properties, target);
        }
        device
    }
}
