#!/bin/sh
# Runs this example on four embedded runners, then says what to look at. Argument: the folder with `fleetest` in it.
set -eu
bin=$1
suite=$(dirname "$0")

"$bin/fleetest" run --fleet 4 "$suite"

cat <<END

Every verdict, duration and output of this run is kept in $suite/.fleetest/history.duckdb
Try next:
  $bin/fleetest history --history $suite/.fleetest/history.duckdb          the runs so far
  $bin/fleetest history slowest --history $suite/.fleetest/history.duckdb  where the time goes
  $bin/python -m pytest --fleet auto $suite              the same with pytest's own reporters
  $bin/fleetest run --fleet 2 $suite/suite.toml          commands and pytest tests in one queue
END
