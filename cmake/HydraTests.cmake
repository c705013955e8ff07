# SPDX-License-Identifier: Apache-2.0
# Tests: one GoogleTest binary a folder (hydra/FOLDER/*_test.cc -> FOLDER_test), and tests/FOLDER/*.py, run by
# HYDRALM_PYTHON. All run in the root of the sources. Labels: unit or torch by folder; a case whose name ends in Slow is
# slow, in Cuda is cuda. A Python test may say "# ctest: torch slow serial timeout=300" in its first lines: torch leaves
# it out of builds without hydralm-train.
include(GoogleTest)

set(test_environment HYDRALM_BIN=${CMAKE_BINARY_DIR} HYDRALM_PYTHON=${HYDRALM_PYTHON} OMP_NUM_THREADS=1
    PYTHONDONTWRITEBYTECODE=1 HYDRALM_SANITIZE=${HYDRALM_SANITIZE} ASAN_OPTIONS=detect_stack_use_after_return=1
    UBSAN_OPTIONS=print_stacktrace=1)

add_custom_target(unit_tests)  # the torch-free test binaries, without commands

# hydra_test(FOLDER LABEL): LABEL torch builds with LibTorch.
function(hydra_test folder label)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/hydra/${folder}/*_test.cc)
  if(NOT sources OR NOT TARGET hydra_${folder})
    return()
  endif()
  set(kind test)
  if(label STREQUAL "torch")
    set(kind torch)
  endif()
  add_executable(${folder}_test ${sources})
  target_link_libraries(${folder}_test PRIVATE hydra_${folder} GTest::gtest_main)
  hydra_common(${folder}_test ${kind})
  hydra_unity(${folder}_test ${kind})
  if(NOT label STREQUAL "torch")
    add_dependencies(unit_tests ${folder}_test)
  endif()
  foreach(group plain slow cuda)
    set(filter_plain "-*Slow:*Cuda")
    set(filter_slow "*Slow")
    set(filter_cuda "*Cuda")
    set(cases ${folder}_${group}_cases)
    gtest_discover_tests(${folder}_test TEST_PREFIX "${folder}." TEST_FILTER "${filter_${group}}" TEST_LIST ${cases}
                         WORKING_DIRECTORY ${CMAKE_SOURCE_DIR} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60
                         PROPERTIES TIMEOUT 600)
    set(labels ${label})
    if(NOT "${group}" STREQUAL "plain")
      list(APPEND labels ${group})
    endif()
    # gtest_discover_tests takes no lists as values: of an ENVIRONMENT it would keep the first entry only.
    set(file ${CMAKE_BINARY_DIR}/${cases}.cmake)
    file(GENERATE OUTPUT ${file} CONTENT
         "foreach(case IN LISTS ${cases})
  set_tests_properties(\${case} PROPERTIES LABELS \"${labels}\" ENVIRONMENT \"${test_environment}\")
endforeach()
")
    set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES ${file})
  endforeach()
endfunction()

foreach(folder base tensor io model text data moa kernels runtime convert serve cli)
  hydra_test(${folder} unit)
endforeach()
foreach(folder nn train eval)
  hydra_test(${folder} torch)
endforeach()

# The program that specs/interfaces.md shows, run by tests/commands/library_test.py; it links what a user of the library
# would link.
if(TARGET hydra_runtime)
  add_executable(example_library ${CMAKE_SOURCE_DIR}/examples/library.cc)
  target_link_libraries(example_library PRIVATE hydralm::runtime)
  hydra_common(example_library test)
endif()

# tests/{commands,parity,rules}/*.py get the two commands as arguments; the second is empty in a build without LibTorch.
set(train_command "")
if(TARGET hydralm-train)
  set(train_command ${CMAKE_BINARY_DIR}/hydralm-train)
endif()
file(GLOB scripts CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/commands/*.py
     ${CMAKE_SOURCE_DIR}/tests/parity/*.py ${CMAKE_SOURCE_DIR}/tests/rules/*.py)
foreach(script IN LISTS scripts)
  get_filename_component(name ${script} NAME_WE)
  file(STRINGS ${script} header LIMIT_COUNT 8 REGEX "^# ctest:")
  string(REGEX REPLACE "^# ctest: *" "" words "${header}")
  separate_arguments(words)
  if("torch" IN_LIST words AND NOT train_command)
    continue()
  endif()
  set(timeout 300)
  set(labels python)
  set(serial FALSE)
  foreach(word IN LISTS words)
    if(word MATCHES "^timeout=([0-9]+)$")
      set(timeout ${CMAKE_MATCH_1})
    elseif(word STREQUAL "serial")
      set(serial TRUE)
    elseif(word MATCHES "^(torch|slow|cuda)$")
      list(APPEND labels ${word})
    else()
      message(FATAL_ERROR "${script}: \"# ctest: ${word}\": must be torch, slow, cuda, serial or timeout=SECONDS")
    endif()
  endforeach()
  add_test(NAME python.${name} COMMAND ${HYDRALM_PYTHON} ${script} ${CMAKE_BINARY_DIR}/hydralm "${train_command}"
           WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  # The longest first, beside the many short ones.
  set_tests_properties(python.${name} PROPERTIES LABELS "${labels}" TIMEOUT ${timeout} COST ${timeout}
                       RUN_SERIAL ${serial} SKIP_RETURN_CODE 77 ENVIRONMENT "${test_environment}")
endforeach()
