// Segment every volume that a pattern names, and make one table of all. Nextflow restarts what failed and keeps the rest.
//
//   nextflow run docs/examples/segment.nf --scans 'scans/*.nii.gz' --model heart -profile slurm
//
// Every case is a task of its own; for thousands of small ones `diffatlas batch --slurm` starts fewer and longer tasks.
nextflow.enable.dsl = 2

params.scans   = 'scans/*.nii.gz'
params.model   = 'auto'
params.results = 'results'

process SEGMENT {
    errorStrategy { task.exitStatus == 2 ? 'ignore' : 'retry' }   // 2: the file is to blame, trying again does not help
    maxRetries 2
    cpus 2
    memory '6 GB'

    input:
    path scan

    output:
    path 'out', emit: folder

    script:
    """
    diffatlas batch '${scan}' -o out --model '${params.model}'
    """
}

process COLLECT {
    publishDir params.results, mode: 'copy'

    input:
    path 'part*'

    output:
    path 'labels'
    path 'table.csv'

    script:
    """
    mkdir labels
    for part in part*; do cp "\$part"/*.nii.gz "\$part"/*.json labels/; done
    diffatlas collect labels -o table.csv
    """
}

workflow {
    SEGMENT(Channel.fromPath(params.scans))
    COLLECT(SEGMENT.out.folder.collect())
}
