// ROCm's is a structure, whose conversions are stricter than those of the compiler's own type.
#pragma once

typedef __bf16 __hip_bfloat16;
