"""What all studies share: grids of trainings, measurements that are kept, pages."""
