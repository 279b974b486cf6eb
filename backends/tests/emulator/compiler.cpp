// An NVRTC whose target is the host: CUDA C++ becomes a shared object by the C++ compiler of the
// machine (`g++`, or GLM_EMULATOR_CXX). The "PTX" is the path of that object, in the folder
// GLM_EMULATOR_FOLDER, where `device.hpp` lies as well; an object that is there is taken again.

#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <regex>
#include <sstream>
#include <string>

namespace {

const int SUCCESS = 0, COMPILATION = 6;

struct Program {
    std::string source, object, log;
};

std::string read(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
}

std::string folder() {
    const char* folder = std::getenv("GLM_EMULATOR_FOLDER");
    return folder ? folder : ".";
}

unsigned long long hash(const std::string& text) {
    unsigned long long value = 0xcbf29ce484222325;
    for (unsigned char byte : text) value = (value ^ byte) * 0x100000001b3;
    return value;
}

// Instructions of PTX in the text become functions of `device.hpp`.
std::string without_ptx(const std::string& source) {
    static const std::regex product(
        R"re(asm volatile\("mma\.sync\.aligned\.m16n8k\d+\.row\.col\.f32\.(\w+)\.\w+\.f32 [^"]*" : ([^;]*)\);)re");
    static const std::regex extreme(
        R"re(asm\("(max|min)\.NaN\.f32 %0, %1, %2;" : "=f"\((\w+)\) : ([^;]*)\);)re");
    static const std::regex operand(R"re((?:: )?"=?\w"\(([^)]*)\))re");
    std::string text = std::regex_replace(source, product, "glm::mma<glm::$1>($2);");
    text = std::regex_replace(text, extreme, "$2 = glm::$1_nan($3);");
    std::string result, line;
    std::istringstream lines(text);
    while (std::getline(lines, line)) {
        if (line.find("glm::") != std::string::npos) {
            line = std::regex_replace(line, std::regex(" : \""), ", \"");
            line = std::regex_replace(line, operand, "$1");
        }
        result += line + "\n";
    }
    return result;
}

// Pointers to device memory become buffers that count, shared memory is the host's, and each kernel
// gets an entry that takes its arguments from an array.
std::string on_the_host(const std::string& source) {
    static const std::regex include(R"(#include <[^>]*>)");
    static const std::regex shared(R"(extern __shared__ (?:__align__\(\d+\) )?(\w+) (\w+)\[\];)");
    static const std::regex pointer(R"((\w+) (const)?\* (?:const )?__restrict__ (\w+))");
    static const std::regex kernel(R"(__global__ void(?: __launch_bounds__\([^)]*\))?\s+(\w+)\()");
    std::string text, entries, line;
    std::istringstream lines(std::regex_replace(
        std::regex_replace(without_ptx(source), include, ""), shared,
        "$1* $2 = reinterpret_cast<$1*>(glm_host->shared);"));
    while (std::getline(lines, line)) {
        std::smatch name;
        if (std::regex_search(line, name, kernel)) {
            std::string constant;
            for (std::sregex_iterator at(line.begin(), line.end(), pointer), end; at != end; ++at)
                constant += (*at)[2].matched ? "true, " : "false, ";
            std::string called = name[1], before = "extern \"C\" ";
            entries += before + "void " + called + "_call(void** args) { glm::call(" + called +
                       ", args); }\n" + before + "glm::Parameters " + called +
                       "_parameters() { return glm::parameters(" + called + "); }\n" + before +
                       "const bool " + called + "_constant[] = {" + constant + "false};\n";
            line = std::regex_replace(line, pointer, "glm::Buffer<$1 $2> const $3");
        }
        text += line + "\n";
    }
    return "extern \"C\" { glm::Host* glm_host; }\n" + text + entries;
}

}  // namespace

extern "C" {

int nvrtcVersion(int* major, int* minor) { return *major = 13, *minor = 2, SUCCESS; }
const char* nvrtcGetErrorString(int) { return "refused by the emulated compiler"; }
int nvrtcCreateProgram(void** program, const char* source, const char*, int, const char* const*,
                       const char* const*) {
    return *program = new Program{source, "", ""}, SUCCESS;
}
int nvrtcDestroyProgram(void** program) { return delete (Program*)*program, SUCCESS; }
int nvrtcCompileProgram(void* handle, int, const char* const*) {
    Program& program = *(Program*)handle;
    std::string text = on_the_host(program.source), header = folder() + "/device.hpp";
    char name[32];
    std::snprintf(name, sizeof name, "/%016llx", hash(text + read(header)));
    std::string base = folder() + name, own = base + "." + std::to_string(getpid());
    program.object = base + ".so";
    if (access(program.object.c_str(), R_OK) == 0) return SUCCESS;
    std::ofstream(own + ".cpp") << text;
    const char* compiler = std::getenv("GLM_EMULATOR_CXX");
    std::string command = std::string(compiler ? compiler : "g++") +
                          " -std=c++17 -O1 -march=native -ffp-contract=off -fno-strict-aliasing -w "
                          "-shared -fPIC -include " +
                          header + " " + own + ".cpp -o " + own + ".so 2> " + own + ".log";
    int status = std::system(command.c_str());
    program.log = read(own + ".log");
    std::remove((own + ".log").c_str());
    if (status != 0) {
        std::fprintf(stderr, "emulator: %s.cpp does not compile:\n%s", own.c_str(), program.log.c_str());
        return COMPILATION;
    }
    std::rename((own + ".cpp").c_str(), (base + ".cpp").c_str());
    std::rename((own + ".so").c_str(), program.object.c_str());
    return SUCCESS;
}
int nvrtcGetPTXSize(void* program, size_t* size) {
    return *size = ((Program*)program)->object.size() + 1, SUCCESS;
}
int nvrtcGetPTX(void* program, char* to) {
    return std::strcpy(to, ((Program*)program)->object.c_str()), SUCCESS;
}
int nvrtcGetProgramLogSize(void* program, size_t* size) {
    return *size = ((Program*)program)->log.size() + 1, SUCCESS;
}
int nvrtcGetProgramLog(void* program, char* to) {
    return std::strcpy(to, ((Program*)program)->log.c_str()), SUCCESS;
}

}  // extern "C"
