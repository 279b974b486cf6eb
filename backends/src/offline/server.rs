//! A server that keeps what it is asked to launch, and has neither memory nor a device.

#![expect(unsafe_code, reason = "launching is unsafe by its trait; nothing is run here")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use cubecl::future::DynFut;
use cubecl::prelude::{CubeCount, KernelId};
use cubecl::server::{
    BufferBinding, CopyDescriptor, Handle, IoError, KernelArguments, MemoryLayout,
    MemoryLayoutDescriptor, MemoryLayoutPolicy, ProfileError, ProfilingToken, Server,
    ServerCommunication, ServerError, ServerStorage, ServerUtilities,
};
use cubecl::{CubeKernel, MemoryAllocationMode, StreamMemoryReport};
use cubecl_core::bytes::Bytes;
use cubecl_core::device::{DeviceId, DeviceService, ServerUtilitiesHandle, ServiceId};
use cubecl_core::environment::stream::StreamId;
use cubecl_server::allocator::{ContiguousMemoryLayoutPolicy, PitchedMemoryLayoutPolicy};
use cubecl_server::dry_run::LaunchMode;
use cubecl_server::logging::ServerLogger;
use cubecl_server::memory_management::ManagedMemoryHandle;
use cubecl_server::storage::{ComputeStorage, ManagedResource, StorageHandle, StorageId};

use super::{Described, Rows};

/// What was launched with one kernel.
#[expect(missing_debug_implementations, reason = "kernels have none")]
pub struct Launch {
    /// Not yet expanded: that is done by whoever compiles it.
    pub kernel: Box<dyn CubeKernel>,
    /// What tells the kernel from others.
    pub id: KernelId,
    /// The most cubes along each axis.
    pub cubes: [u32; 3],
    /// Buffers that it takes, that of its scalars not counted.
    pub buffers: usize,
    /// How often it was launched.
    pub count: usize,
}

/// Launches of one device, each kernel once.
pub(super) type Launches = Arc<Mutex<HashMap<KernelId, Launch>>>;

#[derive(Debug)]
pub(super) struct OfflineServer {
    utilities: Arc<ServerUtilities>,
    launches: Keeper,
}

struct Keeper(Launches);

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Launches")
    }
}

impl OfflineServer {
    pub(super) fn new(device: DeviceId, described: Described, launches: Launches) -> Self {
        let Described { name, properties, mma, rows, .. } = described;
        let layout = Layout::of(rows, properties.memory.alignment as usize);
        let (utilities, _) = ServerUtilities::init(
            ServiceId::of::<Self>(device),
            name,
            properties,
            mma,
            Arc::new(ServerLogger::default()),
            layout,
        );
        OfflineServer { utilities: Arc::new(utilities), launches: Keeper(launches) }
    }
}

enum Layout {
    Pitched(PitchedMemoryLayoutPolicy),
    Contiguous(ContiguousMemoryLayoutPolicy),
}

impl Layout {
    fn of(rows: Rows, alignment: usize) -> Self {
        match rows {
            Rows::Pitched => Layout::Pitched(PitchedMemoryLayoutPolicy::new(alignment)),
            Rows::Contiguous => Layout::Contiguous(ContiguousMemoryLayoutPolicy::new(alignment)),
        }
    }
}

impl MemoryLayoutPolicy for Layout {
    fn apply(
        &self,
        service: ServiceId,
        stream: StreamId,
        descriptors: &[MemoryLayoutDescriptor],
    ) -> (Handle, Vec<MemoryLayout>) {
        match self {
            Layout::Pitched(layout) => layout.apply(service, stream, descriptors),
            Layout::Contiguous(layout) => layout.apply(service, stream, descriptors),
        }
    }
}

impl DeviceService for OfflineServer {
    fn init(device: DeviceId) -> Self {
        panic!("nobody said what {device} is")
    }

    fn utilities(&self) -> ServerUtilitiesHandle {
        self.utilities.clone()
    }
}

impl ServerCommunication for OfflineServer {}

impl Server for OfflineServer {
    unsafe fn launch(
        &mut self,
        kernel: Box<dyn CubeKernel>,
        count: CubeCount,
        bindings: KernelArguments,
        _stream: StreamId,
        _mode: LaunchMode,
    ) {
        let cubes = match count {
            CubeCount::Static(x, y, z) => [x, y, z],
            CubeCount::Dynamic(_) => [1; 3],
        };
        let id = kernel.id();
        let buffers = bindings.resources.len();
        let mut launches = self.launches.0.lock().expect("launches");
        let launch =
            launches.entry(id.clone()).or_insert(Launch { kernel, id, cubes, buffers, count: 0 });
        launch.count += 1;
        for (most, cubes) in launch.cubes.iter_mut().zip(cubes) {
            *most = cubes.max(*most);
        }
    }

    fn read(
        &mut self,
        descriptors: Vec<CopyDescriptor>,
        _stream: StreamId,
    ) -> DynFut<Result<Vec<Bytes>, ServerError>> {
        let zeros =
            |read: &CopyDescriptor| vec![0; read.shape.iter().product::<usize>() * read.elem_size];
        let bytes = descriptors.iter().map(|read| Bytes::from_bytes_vec(zeros(read))).collect();
        Box::pin(std::future::ready(Ok(bytes)))
    }

    fn write(&mut self, _written: Vec<(CopyDescriptor, Bytes)>, _stream: StreamId) {}

    fn sync(
        &mut self,
        _handles: Vec<BufferBinding>,
        _stream: StreamId,
    ) -> DynFut<Result<(), ServerError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn check(&mut self, _handles: Vec<BufferBinding>, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn flush(&mut self, _stream: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn initialize_memory(
        &mut self,
        _memory: ManagedMemoryHandle,
        _size: u64,
        _stream: StreamId,
    ) -> Result<(), ServerError> {
        Ok(())
    }

    fn logger(&self) -> Arc<ServerLogger> {
        self.utilities.logger.clone()
    }

    fn utilities(&self) -> Arc<ServerUtilities> {
        self.utilities.clone()
    }

    fn memory_report(&mut self, _stream: StreamId) -> Option<StreamMemoryReport> {
        None
    }

    fn memory_cleanup(&mut self, _stream: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn allocation_mode(&mut self, _mode: MemoryAllocationMode, _stream: StreamId) {}

    fn start_profile(&mut self, _stream: StreamId) -> Result<ProfilingToken, ServerError> {
        Ok(ProfilingToken { id: 0 })
    }

    fn end_profile(
        &mut self,
        _stream: StreamId,
        _token: ProfilingToken,
    ) -> Result<cubecl_core::profile::ProfileDuration, ProfileError> {
        Err(ProfileError::NotMeasured { backtrace: Default::default() })
    }
}

impl ServerStorage for OfflineServer {
    type Storage = NoStorage;

    fn get_resource(
        &mut self,
        _binding: BufferBinding,
        _stream: StreamId,
    ) -> Result<ManagedResource<()>, ServerError> {
        Err(no_memory().into())
    }
}

#[derive(Debug)]
pub(super) struct NoStorage;

impl ComputeStorage for NoStorage {
    type Resource = ();

    fn alignment(&self) -> usize {
        1
    }

    fn get(&mut self, _handle: &StorageHandle) -> Result<(), IoError> {
        Err(no_memory())
    }

    fn alloc(&mut self, _size: u64) -> Result<StorageHandle, IoError> {
        Err(no_memory())
    }

    fn dealloc(&mut self, _id: StorageId) {}

    fn flush(&mut self) {}

    fn bytes_allocated(&self) -> u64 {
        0
    }
}

fn no_memory() -> IoError {
    IoError::UnsupportedIoOperation { backtrace: Default::default() }
}
