"""Pictures of dashboards from a real Prometheus, without a Grafana."""
