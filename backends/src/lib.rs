//! Devices, tensor operations and the layout of KV pages.
//!
//! This crate knows tensors, devices, kernels and where a slot of the cache lies. It does not
//! know what a request, a sequence's owner or a layer of a model is.
//!
//! - `cpu`: what its kernels are made of
//! - [`device`]: from `"cuda:0"`, `"vulkan"`, `"cpu"`, … to an open device
//! - `graph`: steps that are recorded and run again
//! - [`fp8`], [`groups`], [`weight`]: weight matrices as a device holds them
//! - [`kv`]: bytes and slots of the paged cache
//! - [`ops`]: the operations of the graph, each with its reference and its cases
//! - [`ranks`]: where a model is divided over devices

#[cfg(feature = "cpu")]
pub mod cpu;
#[cfg(feature = "cube")]
mod cube;
pub mod device;
pub mod fp8;
pub mod graph;
pub mod groups;
pub mod kv;
#[cfg(any(
    all(not(test), feature = "offline"),
    all(test, feature = "cuda", feature = "rocm", feature = "vulkan"),
))]
#[doc(hidden)]
pub mod offline;
pub mod ops;
pub mod ranks;
pub mod weight;
