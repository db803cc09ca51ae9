package sim

const providersPath = "remote_providers"
