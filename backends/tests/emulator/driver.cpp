// A CUDA driver whose device is the host: kernels are shared objects that `compiler.cpp` made of
// CUDA C++. Everything is done when a call returns; streams and events only have to be there.
// Signatures are those of the CUDA driver API, of the calls that CubeCL and glm make.
//
// GLM_EMULATOR_COUNTS names a file that gets a line for each launch: the kernel, and for each of its
// buffers `const|mut fetched unique`: bytes that blocks touched, counted once for each block and once
// for all of them. Of parameters that begin at the same address, the first has the count of all.

#include <dlfcn.h>
#include <sys/mman.h>

#include <chrono>
#include <string>

#include "threads.hpp"

using glm::Blocks;
using glm::Counter;

typedef int Result;
typedef unsigned long long Pointer;

namespace {

// Bytes of the device: GLM_EMULATOR_GIB times 2^30, or four times.
size_t memory() {
    const char* gib = std::getenv("GLM_EMULATOR_GIB");
    return size_t(gib ? std::atoi(gib) : 4) << 30;
}

const Result SUCCESS = 0, INVALID = 1, NO_MEMORY = 2, NOT_FOUND = 500, NOT_SUPPORTED = 801;

struct Parameters {
    int count;
    int sizes[128], elements[128];
};

struct Function {
    std::string name;
    void (*call)(void**);
    Parameters parameters;
    const bool* constant;
    void** host;
};

struct Launch {
    const Function* function;
    glm::Index blocks, threads;
    unsigned shared;
    std::vector<std::vector<char>> args;
};

// What a graph does again: a launch, or a copy of rows.
struct Node {
    Launch launch;
    char *to, *from;
    size_t to_pitch, from_pitch, width, height;
};

struct Graph {
    std::vector<Node> nodes;
};

struct Stream {
    Graph* recording = nullptr;
};

struct Event {
    std::chrono::steady_clock::time_point at;
};

Stream default_stream;

Stream& stream_of(void* stream) { return stream ? *(Stream*)stream : default_stream; }

// A buffer of CubeCL is at most a quarter of the device's memory.
size_t bytes_of_blocks() { return memory() / 4 / 8 * sizeof(unsigned); }

// Counters of a launch, one for all parameters that begin at the same address.
struct Counters {
    std::vector<Counter*> places;

    explicit Counters(const Launch& launch) {
        for (const auto& arg : launch.args) {
            const char* base = *(const char* const*)arg.data();
            Counter* counter = nullptr;
            for (Counter* known : places)
                if (known->base == base) counter = known;
            places.push_back(counter ? counter : new Counter{0, 0, blocks(), base});
        }
    }
    static unsigned* blocks() {
        void* place = mmap(nullptr, bytes_of_blocks(), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (place == MAP_FAILED) std::abort();
        return (unsigned*)place;
    }
    void write(const Function& function) {
        static FILE* file = std::fopen(std::getenv("GLM_EMULATOR_COUNTS"), "a");
        if (!file) std::abort();
        std::fprintf(file, "%s", function.name.c_str());
        for (size_t place = 0; place < places.size(); ++place) {
            Counter& counter = *places[place];
            if (function.parameters.elements[place] == 0) continue;
            std::fprintf(file, " %s %llu %llu", function.constant[place] ? "const" : "mut",
                         counter.fetched, counter.unique);
            counter.fetched = counter.unique = 0;
            if (counter.blocks) munmap(counter.blocks, bytes_of_blocks());
            counter.blocks = nullptr;
        }
        std::fprintf(file, "\n");
        std::fflush(file);
    }
};

void run(const Launch& launch) {
    Blocks& blocks = Blocks::get();
    std::vector<char> shared(launch.shared + 512);
    std::vector<void*> args;
    for (const auto& arg : launch.args) args.push_back((void*)arg.data());
    std::vector<Counters> counters;
    if (std::getenv("GLM_EMULATOR_COUNTS")) counters.emplace_back(launch);
    blocks.host.threads = launch.threads;
    blocks.host.blocks = launch.blocks;
    blocks.host.shared = (char*)(((uintptr_t)shared.data() + 511) & ~uintptr_t(511));
    blocks.host.counters = counters.empty() ? nullptr : counters[0].places.data();
    blocks.host.block_number = 0;
    blocks.kernel = launch.function->call;
    blocks.args = args.data();
    *launch.function->host = &blocks.host;
    for (unsigned z = 0; z < launch.blocks.z; ++z)
        for (unsigned y = 0; y < launch.blocks.y; ++y)
            for (unsigned x = 0; x < launch.blocks.x; ++x) {
                blocks.host.block = {x, y, z};
                blocks.host.block_number += 1;
                // What nobody wrote is NaN.
                std::memset(shared.data(), 0xff, shared.size());
                blocks.run();
            }
    if (!counters.empty()) counters[0].write(*launch.function);
}

void run(const Node& node) {
    if (node.launch.function) return run(node.launch);
    for (size_t row = 0; row < node.height; ++row)
        std::memmove(node.to + row * node.to_pitch, node.from + row * node.from_pitch, node.width);
}

// Now, or whenever the graph is launched.
Result submit(void* stream, Node node) {
    if (Graph* graph = stream_of(stream).recording)
        graph->nodes.push_back(std::move(node));
    else
        run(node);
    return SUCCESS;
}

Result copy(void* to, const void* from, size_t size, void* stream) {
    return submit(stream, {{}, (char*)to, (char*)from, 0, 0, size, 1});
}

Result allocate(void** to, size_t size) {
    void* place = nullptr;
    if (posix_memalign(&place, 512, size ? size : 1) != 0) return NO_MEMORY;
    *to = place;
    return SUCCESS;
}

}  // namespace

extern "C" {

Result cuInit(unsigned) { return SUCCESS; }
Result cuDriverGetVersion(int* version) { return *version = 13020, SUCCESS; }
Result cuGetErrorName(Result, const char** text) { return *text = "CUDA_ERROR", SUCCESS; }
Result cuGetErrorString(Result error, const char** text) {
    *text = error == NO_MEMORY ? "out of memory" : "refused by the emulated driver";
    return SUCCESS;
}
Result cuDeviceGetCount(int* count) { return *count = 1, SUCCESS; }
Result cuDeviceGet(int* device, int ordinal) {
    return *device = ordinal, ordinal == 0 ? SUCCESS : INVALID;
}
Result cuDeviceGetName(char* name, int length, int) {
    std::snprintf(name, length, "emulated on the CPU");
    return SUCCESS;
}
Result cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = memory(), SUCCESS; }
Result cuMemGetInfo_v2(size_t* free, size_t* total) {
    return *free = *total = memory(), SUCCESS;
}
// An L40S, as far as anybody asks.
Result cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
        case 1: *value = 1024; break;                // threads of a block
        case 2: case 3: *value = 1024; break;        // ... along x and y
        case 4: *value = 64; break;                  // ... along z
        case 5: *value = 0x7fffffff; break;          // blocks along x
        case 6: case 7: *value = 65535; break;       // ... along y and z
        case 8: *value = 48 << 10; break;            // shared memory
        case 10: *value = 32; break;                 // threads of a warp
        case 16: *value = 142; break;                // multiprocessors
        case 75: *value = 8; break;                  // compute capability
        case 76: *value = 9; break;
        case 97: *value = 99 << 10; break;           // shared memory when asked for
        case 115: *value = 1; break;                 // memory pools
        default: *value = 0;
    }
    return SUCCESS;
}
Result cuDeviceGetPCIBusId(char* id, int length, int) {
    std::snprintf(id, length, "0000:00:00.0");
    return SUCCESS;
}
Result cuDeviceGetUuid_v2(char* id, int) { return std::memset(id, 0, 16), SUCCESS; }
Result cuDeviceGetUuid(char* id, int) { return std::memset(id, 0, 16), SUCCESS; }
Result cuDeviceGetLuid(char*, unsigned*, int) { return NOT_SUPPORTED; }
Result cuDevicePrimaryCtxRetain(void** context, int) {
    static int only;
    return *context = &only, SUCCESS;
}
Result cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
Result cuCtxSetCurrent(void*) { return SUCCESS; }
Result cuCtxGetCurrent(void** context) { return cuDevicePrimaryCtxRetain(context, 0); }
Result cuCtxSynchronize() { return SUCCESS; }
Result cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    return *least = *greatest = 0, SUCCESS;
}

Result cuMemAlloc_v2(Pointer* to, size_t size) { return allocate((void**)to, size); }
Result cuMemAllocAsync(Pointer* to, size_t size, void*) { return allocate((void**)to, size); }
Result cuMemAllocHost_v2(void** to, size_t size) { return allocate(to, size); }
Result cuMemFree_v2(Pointer place) { return std::free((void*)place), SUCCESS; }
Result cuMemFreeAsync(Pointer place, void*) { return std::free((void*)place), SUCCESS; }
Result cuMemFreeHost(void* place) { return std::free(place), SUCCESS; }
Result cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t size, void* stream) {
    return copy((void*)to, from, size, stream);
}
Result cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t size, void* stream) {
    return copy(to, (void*)from, size, stream);
}
Result cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t size, void* stream) {
    return copy((void*)to, (void*)from, size, stream);
}
Result cuMemsetD8Async(Pointer to, unsigned char value, size_t size, void*) {
    return std::memset((void*)to, value, size), SUCCESS;
}

struct Copy2D {
    size_t from_x, from_y;
    unsigned from_type;
    const void* from_host;
    Pointer from_device;
    void* from_array;
    size_t from_pitch;
    size_t to_x, to_y;
    unsigned to_type;
    void* to_host;
    Pointer to_device;
    void* to_array;
    size_t to_pitch, width, height;
};
Result cuMemcpy2DAsync_v2(const Copy2D* copy, void* stream) {
    const unsigned HOST = 1;
    char* from = copy->from_type == HOST ? (char*)copy->from_host : (char*)copy->from_device;
    char* to = copy->to_type == HOST ? (char*)copy->to_host : (char*)copy->to_device;
    from += copy->from_y * copy->from_pitch + copy->from_x;
    to += copy->to_y * copy->to_pitch + copy->to_x;
    return submit(stream,
                  {{}, to, from, copy->to_pitch, copy->from_pitch, copy->width, copy->height});
}

Result cuStreamCreate(void** stream, unsigned) { return *stream = new Stream, SUCCESS; }
Result cuStreamCreateWithPriority(void** stream, unsigned, int) {
    return *stream = new Stream, SUCCESS;
}
Result cuStreamDestroy_v2(void* stream) { return delete (Stream*)stream, SUCCESS; }
Result cuStreamSynchronize(void*) { return SUCCESS; }
Result cuStreamQuery(void*) { return SUCCESS; }
Result cuStreamWaitEvent(void*, void*, unsigned) { return SUCCESS; }
Result cuEventCreate(void** event, unsigned) { return *event = new Event, SUCCESS; }
Result cuEventDestroy_v2(void* event) { return delete (Event*)event, SUCCESS; }
Result cuEventRecord(void* event, void*) {
    return ((Event*)event)->at = std::chrono::steady_clock::now(), SUCCESS;
}
Result cuEventQuery(void*) { return SUCCESS; }
Result cuEventSynchronize(void*) { return SUCCESS; }
Result cuEventElapsedTime_v2(float* milliseconds, void* start, void* end) {
    auto passed = ((Event*)end)->at - ((Event*)start)->at;
    *milliseconds = std::chrono::duration<float, std::milli>(passed).count();
    return SUCCESS;
}
Result cuEventElapsedTime(float* milliseconds, void* start, void* end) {
    return cuEventElapsedTime_v2(milliseconds, start, end);
}

Result cuModuleLoadData(void** module, const void* image) {
    *module = dlopen((const char*)image, RTLD_NOW | RTLD_LOCAL);
    if (!*module) std::fprintf(stderr, "emulator: %s\n", dlerror());
    return *module ? SUCCESS : INVALID;
}
// The process ends before a kernel has to go.
Result cuModuleUnload(void*) { return SUCCESS; }
Result cuModuleGetFunction(void** function, void* module, const char* name) {
    auto find = [&](std::string suffix) { return dlsym(module, (name + suffix).c_str()); };
    void* call = find("_call");
    if (!call) return NOT_FOUND;
    auto parameters = (Parameters(*)())find("_parameters");
    *function = new Function{name, (void (*)(void**))call, parameters(),
                             (const bool*)find("_constant"), (void**)dlsym(module, "glm_host")};
    return SUCCESS;
}
Result cuFuncSetAttribute(void*, int, int) { return SUCCESS; }
Result cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads_x,
                      unsigned threads_y, unsigned threads_z, unsigned shared, void* stream,
                      void** params, void**) {
    if (threads_x * threads_y * threads_z > Blocks::MOST) return INVALID;
    const Function& called = *(Function*)function;
    Launch launch{&called, {x, y, z}, {threads_x, threads_y, threads_z}, shared, {}};
    for (int place = 0; place < called.parameters.count; ++place) {
        const char* value = (const char*)params[place];
        launch.args.emplace_back(value, value + called.parameters.sizes[place]);
    }
    return submit(stream, {std::move(launch), nullptr, nullptr, 0, 0, 0, 0});
}

Result cuStreamBeginCapture_v2(void* stream, int) {
    return stream_of(stream).recording = new Graph, SUCCESS;
}
Result cuStreamEndCapture(void* stream, void** graph) {
    *graph = stream_of(stream).recording;
    stream_of(stream).recording = nullptr;
    return *graph ? SUCCESS : INVALID;
}
Result cuGraphDestroy(void* graph) { return delete (Graph*)graph, SUCCESS; }
Result cuGraphGetNodes(void* graph, void** nodes, size_t* count) {
    std::vector<Node>& held = ((Graph*)graph)->nodes;
    if (nodes)
        for (size_t index = 0; index < *count && index < held.size(); ++index)
            nodes[index] = &held[index];
    return *count = held.size(), SUCCESS;
}
Result cuGraphNodeGetType(void* node, int* type) {
    return *type = ((Node*)node)->launch.function ? 0 : 1, SUCCESS;
}
Result cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
    return *executable = new Graph(*(Graph*)graph), SUCCESS;
}
Result cuGraphExecDestroy(void* executable) { return delete (Graph*)executable, SUCCESS; }
Result cuGraphUpload(void*, void*) { return SUCCESS; }
Result cuGraphLaunch(void* executable, void*) {
    for (const Node& node : ((Graph*)executable)->nodes) run(node);
    return SUCCESS;
}

}  // extern "C"
