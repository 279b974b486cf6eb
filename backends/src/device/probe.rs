//! Touching a device that may not work, without a panic or a word on stderr.

use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Dispatch, DispatchDevice};
use burn::tensor::{Device, ExecutionError, TensorData, read_sync};

type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Sync + Send + 'static>;

/// Only one probe at a time: the panic hook is the process's own, and the Vulkan loader crashes
/// when instances come and go on several threads at once.
static PROBING: Mutex<()> = Mutex::new(());

/// Runs `work` and turns a panic, here or in a CubeCL device thread, into its first message.
///
/// Panics of other threads reach the hook that was there before, which is restored afterwards.
/// Calls must not nest.
pub(super) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let _turn = PROBING.lock().unwrap_or_else(PoisonError::into_inner);
    let prober = thread::current().id();
    let first = Arc::new(Mutex::new(None));
    let previous: Arc<Hook> = Arc::new(panic::take_hook());
    panic::set_hook({
        let (first, previous) = (Arc::clone(&first), Arc::clone(&previous));
        Box::new(move |info| match is_ours(prober) {
            true => {
                let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert_with(|| one_line(info.payload_as_str().unwrap_or("a panic")));
            }
            false => previous(info),
        })
    });
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    drop(panic::take_hook());
    if let Some(previous) = Arc::into_inner(previous) {
        panic::set_hook(previous);
    }
    // The device thread panics first and says why; this thread only finds that it is gone.
    outcome.map_err(|_| {
        let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
        first.take().unwrap_or_else(|| "it panicked without a message".into())
    })
}

/// CubeCL names its device threads `DSU-...` and `DSD-...`.
fn is_ours(prober: ThreadId) -> bool {
    let current = thread::current();
    current.id() == prober || current.name().is_some_and(|name| name.starts_with("DS"))
}

/// The lines of `text` in one, shortened to what fits an error message.
fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(300) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

/// Uploads three numbers, adds them to themselves and reads the sum back. A kernel that fails
/// to compile is only reported by that read.
///
/// Below [`burn::tensor::Tensor`] on purpose: the first tensor on a device would freeze its
/// default dtypes, which are the model's to choose.
pub(super) fn compute(device: &Device) -> Result<(), String> {
    let numbers = TensorData::from([1.0f32, 2.0, 3.0]);
    let numbers = Dispatch::float_from_data(numbers, device.as_dispatch());
    let sum = Dispatch::float_add(numbers.clone(), numbers);
    let sum = read_sync(Dispatch::float_into_data(sum)).map_err(|error| match error {
        ExecutionError::Generic { reason, .. } | ExecutionError::WithContext { reason } => {
            one_line(&reason)
        }
        other => one_line(&other.to_string()),
    })?;
    // The data arrive when they are looked at, not before.
    match sum.try_to_vec::<f32>() {
        Ok(sum) if sum == [2.0, 4.0, 6.0] => Ok(()),
        other => Err(format!("[1, 2, 3] + [1, 2, 3] gave {other:?}")),
    }
}

/// What the driver calls the device. Starts it.
pub(super) fn name(device: &Device) -> Option<String> {
    match device.as_dispatch() {
        #[cfg(any(feature = "cuda", feature = "rocm", feature = "wgpu"))]
        DispatchDevice::Cube(device) => Some(device.client().properties().identity.name.clone()),
        #[cfg(feature = "cpu")]
        DispatchDevice::Flex(_) => None,
    }
}

/// Bytes of memory that the driver states. Starts the device.
pub(super) fn total_memory(device: &Device) -> Option<u64> {
    match device.as_dispatch() {
        #[cfg(any(feature = "cuda", feature = "rocm", feature = "wgpu"))]
        DispatchDevice::Cube(device) => device.client().properties().memory.max_memory(),
        #[cfg(feature = "cpu")]
        DispatchDevice::Flex(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_here_becomes_its_message() {
        assert_eq!(guarded(|| 7), Ok(7));
        let message = guarded(|| panic!("\n  no driver {}\nnote: a trace", 3));
        assert_eq!(message, Err::<(), _>("no driver 3 note: a trace".into()));
    }

    #[test]
    fn the_device_thread_speaks_first() {
        let message = guarded(|| {
            let device = thread::Builder::new().name("DSU-0-0".into());
            let handle = device.spawn(|| panic!("the real cause")).unwrap();
            handle.join().expect("the device thread is gone")
        });
        assert_eq!(message, Err::<(), _>("the real cause".into()));
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        assert_eq!(one_line(&"é".repeat(301)), format!("{}...", "é".repeat(300)));
        assert_eq!(one_line("short"), "short");
    }
}
