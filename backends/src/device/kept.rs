//! What later processes need not find out again: which of several kernels is the fastest for a
//! shape, and kernels that are compiled. CubeCL keeps them in a database; the crate that this takes
//! is only there with the feature `autotune-cache`.

use std::path::PathBuf;

/// Has what is found out on devices kept in `folder`, for later processes as well. To be called
/// before any device is opened; later it has no effect. A `cubecl.toml` or `CUBECL_…` variable of
/// the user's own goes before it.
#[cfg(all(feature = "autotune-cache", feature = "cube"))]
pub fn keep_in(folder: PathBuf) {
    use cubecl::config::cache::CacheConfig;
    use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    // This is the default, of which nobody can want that it is in the folder of some checkout.
    if matches!(config.environment.path, CacheConfig::Target) {
        config.environment.path = CacheConfig::Directory(folder);
        config.compilation.cache = true;
    }
    CubeClRuntimeConfig::try_set(config);
}

/// Nothing is kept in this build.
#[cfg(not(all(feature = "autotune-cache", feature = "cube")))]
pub fn keep_in(_folder: PathBuf) {}
