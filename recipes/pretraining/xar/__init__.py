"""xAR: autoregression over patches, cells, subsamples, scales or whole images, each by flow matching."""
