# Cross build for 64-bit ARM with Debian's g++-aarch64-linux-gnu; what it builds runs here through qemu-user.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

# Where the cross compiler's own C and C++ libraries lie; nothing of the host's is looked at, except its programs.
set(SLUICE_AARCH64_LIBS /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH ${SLUICE_AARCH64_LIBS})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)

# `max`: every extension that qemu knows, dotprod and i8mm among them.
find_program(SLUICE_QEMU_AARCH64 qemu-aarch64)
if(SLUICE_QEMU_AARCH64)
  set(CMAKE_CROSSCOMPILING_EMULATOR ${SLUICE_QEMU_AARCH64} -cpu max -L ${SLUICE_AARCH64_LIBS})
endif()
