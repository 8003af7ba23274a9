#!/bin/bash
# Stops itself, with a child that is stopped too.
sleep "$1" &
kill -STOP $!
echo ready
kill -STOP $$
sleep "$1"
