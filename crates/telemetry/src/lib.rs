//! Counters and histograms of one replica, recorded per core without locks.
