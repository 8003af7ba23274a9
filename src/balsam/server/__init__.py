"""The service: REST routes over use cases over one store. Started by `balsam server up`, or alone by -m."""
