//! Copies of a running or stopped server: standbys, and older disks put back.
