"""Grafana: the dashboards as code, the JSON that they make, provisioning, and a renderer."""
