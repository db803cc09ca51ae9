package sim

// extraResources are collections that only administrators' tools use: the array
// keeps them and does nothing with them.
func extraResources() []resource {
	v := gate{from: v22}
	return []resource{
		{path: "ldap_servers", kind: "ldap_server", key: "name", gate: v, fields: []field{
			nameField(), text("host").must(), integer("port", 1, 65535), text("domain"), text("base_dn"),
			text("bind_dn"), text("bind_password").hidden(), flag("use_ssl")}},
		{path: "smtp_configs", kind: "smtp_config", key: "name", gate: v, fields: []field{
			nameField(), text("host").must(), integer("port", 1, 65535), text("from_address"), texts("to_addresses"),
			text("user"), text("password").hidden()}},
	}
}
