#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# All of King James's Bible on stdout, a document a chapter (form feeds between), verse numbers stripped, a verse a
# line: the text of the demo and of tests. From the Debian packages bible-kjv and bible-kjv-text.
set -eu
command -v bible > /dev/null || { echo "the program bible is missing: install bible-kjv" >&2; exit 2; }
bible -f 'Gen1:1-Rev22:21' | awk '{ split($1, at, ":"); if (NR > 1 && at[1] != chapter) printf "\f"
                                    chapter = at[1]; sub(/^[^ ]* /, ""); print }'
