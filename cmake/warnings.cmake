# Warnings every room is built with; SLUICE_WERROR is set by the dev presets only.
option(SLUICE_WERROR "warnings are errors" OFF)

function(sluice_warnings target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wdouble-promotion
                         $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)  # gcc 12 sees overlaps that are not there (PR 105651)
  if(SLUICE_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
endfunction()

# Rooms whose sizes come from files or clients also watch sign conversions.
function(sluice_size_warnings target)
  sluice_warnings(${target})
  target_compile_options(${target} PRIVATE -Wsign-conversion)
endfunction()
