"""The steps of the pipeline and the services they lean on: store, tracker, jobs, local servers."""
