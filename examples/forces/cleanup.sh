#!/bin/sh
# Removes what runs of this example left here, and their Jobs at the service. Directories of Jobs at the Site stay.
rm -rf forces_results ensemble.log libE_stats.txt
balsam job rm --yes --site all --tag example=forces
