//! Whole clusters, network, disks and clocks from one seed.
