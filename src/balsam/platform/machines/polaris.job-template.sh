#!/bin/bash -l
#PBS -l place=scatter
#PBS -l filesystems={{ optional_params.filesystems }}
# The site agent renders this file (Jinja2) for each allocation and submits the result. Nodes, wall time, queue, project
# and name are given with the submission; directives of your own stand above.
# It can use: project, queue, num_nodes, wall_time_min, job_mode, filter_tags, partitions, optional_params,
# balsam_site_path, balsam_bin, launcher_cmd. Load modules and set variables for your Jobs above the last command.
{#- Values come from whoever asked for the allocation: each one is quoted as one shell word. #}
{%- macro word(text) %}'{{ text | string | replace("'", "'\\''") }}'{% endmacro %}

# `exec`: the guardian takes the script's place, gets its SIGTERM, and lets the Jobs end in time before the wall time.
exec {{ launcher_cmd }} -j {{ job_mode }} -t {{ wall_time_min }}
{%- for key, value in filter_tags.items() %} --tag={{ word(key ~ "=" ~ value) }}{% endfor %} {{ partitions }}
