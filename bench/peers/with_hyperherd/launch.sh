#!/bin/bash
# The trivial run for hyperherd: "x=1 y=2 z=3" -> their sum.
for word in $1; do sum=$((${sum:-0} + ${word#*=})); done
echo "$sum"
