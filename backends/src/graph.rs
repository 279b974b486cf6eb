//! A sequence of launches that is recorded once and run again as a whole, with new contents in the
//! same buffers.
#![cfg_attr(feature = "cube", expect(unsafe_code, reason = "a replay is not checked"))]

use std::fmt;

#[cfg(feature = "cube")]
use burn::backend::DispatchDevice;
use burn::tensor::{Device, Int, Tensor};
#[cfg(feature = "cube")]
use cubecl::client::{Client, Graph};

#[cfg(feature = "cube")]
use crate::cube;

/// Kernels of ours that this process has launched so far, on all devices. What a recording runs
/// again is not counted, and neither are Burn's kernels.
pub fn launches() -> u64 {
    #[cfg(feature = "cube")]
    return cube::launches();
    #[cfg(not(feature = "cube"))]
    return 0;
}

/// Why a step could not be recorded, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CaptureError(String);

/// Launches that were recorded, and where their result lies.
pub struct Captured {
    #[cfg(feature = "cube")]
    graph: Graph,
    output: Tensor<2>,
    inputs: Vec<BufferId>,
}

/// Which buffer a tensor lies in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BufferId(Option<(usize, Option<u64>)>);

impl BufferId {
    /// The buffer of integers.
    pub fn of_ints<const D: usize>(tensor: &Tensor<D, Int>) -> Self {
        #[cfg(feature = "cube")]
        if cube::computes_on(&tensor.device()) {
            return Self::of(&cube::strided_ints(tensor.clone()));
        }
        let _ = tensor;
        BufferId(None)
    }

    /// The buffer of floats.
    pub fn of_floats<const D: usize>(tensor: &Tensor<D>) -> Self {
        #[cfg(feature = "cube")]
        if cube::computes_on(&tensor.device()) {
            return Self::of(&cube::strided(tensor.clone()));
        }
        let _ = tensor;
        BufferId(None)
    }

    #[cfg(feature = "cube")]
    fn of(buffer: &burn_cubecl::tensor::CubeTensor) -> Self {
        let id = &buffer.handle.memory.descriptor().id;
        BufferId(Some((id.value, buffer.handle.offset_start)))
    }
}

#[cfg(not(feature = "cube"))]
impl Captured {
    /// A build without GPUs records nothing.
    ///
    /// # Errors
    /// Always.
    pub fn new(
        _: &Device,
        _: Vec<BufferId>,
        _: impl FnMut() -> Tensor<2>,
    ) -> Result<Self, CaptureError> {
        Err(CaptureError("this build has no device that records".into()))
    }

    /// There is nothing to run.
    ///
    /// # Errors
    /// Never.
    pub fn replay(&self, inputs: &[BufferId]) -> Result<Option<Tensor<2>>, CaptureError> {
        Ok((inputs == self.inputs).then(|| self.output.clone()))
    }
}

#[cfg(feature = "cube")]
impl Captured {
    /// Runs `step` a few times, so that everything is compiled, tuned and allocated, and records it
    /// then. `step` may read and write `inputs` and what lives longer than the recording; it may
    /// neither read from the device nor keep anything but its result.
    ///
    /// # Errors
    /// The device does not record, or refuses something in `step`. What `step` does is done all the
    /// same.
    pub fn new(
        device: &Device,
        inputs: Vec<BufferId>,
        mut step: impl FnMut() -> Tensor<2>,
    ) -> Result<Self, CaptureError> {
        const WARM_UP: usize = 2;
        let DispatchDevice::Cube(device) = device.as_dispatch() else {
            return Err(CaptureError("the CPU records no steps".into()));
        };
        let client = device.client();
        client.graph_prepare().map_err(|error| refused(&error))?;
        // Also when `step` panics, the device goes on.
        let mut window = Window { client: &client, open: true };
        for _ in 0..WARM_UP {
            drop(step());
        }
        client.start_capture().map_err(|error| refused(&error))?;
        let output = step();
        window.open = false;
        let graph = client.stop_capture().map_err(|error| refused(&error))?;
        Ok(Captured { graph, output, inputs })
    }

    /// Runs the recording and gives its result, which the next replay overwrites. `None` where the
    /// inputs do not lie in the buffers that were recorded.
    ///
    /// # Errors
    /// The device refuses.
    pub fn replay(&self, inputs: &[BufferId]) -> Result<Option<Tensor<2>>, CaptureError> {
        if inputs != self.inputs {
            return Ok(None);
        }
        // SAFETY: the device keeps every page that the recording touched for as long as the
        // recording lives, the inputs are in the buffers that were recorded, and a thread's
        // launches are in order on the stream that recorded.
        unsafe { self.graph.replay() }.map_err(|error| refused(&error))?;
        Ok(Some(self.output.clone()))
    }
}

impl fmt::Debug for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Captured").field("inputs", &self.inputs).finish_non_exhaustive()
    }
}

/// A capture that was begun, closed where it is left early.
#[cfg(feature = "cube")]
struct Window<'a> {
    client: &'a Client,
    open: bool,
}

#[cfg(feature = "cube")]
impl Drop for Window<'_> {
    fn drop(&mut self) {
        if self.open {
            drop(self.client.stop_capture());
        }
    }
}

/// The first line of what the device says.
#[cfg(feature = "cube")]
fn refused(error: &dyn fmt::Display) -> CaptureError {
    let text = error.to_string();
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    CaptureError(line.unwrap_or("no reason given").to_owned())
}
