package sim

import "slices"

// routes is the whole API. Each resource's own file lists its part.
func (a *Array) routes() []route {
	return slices.Concat(
		a.sessionRoutes(),
		a.systemRoutes(),
		a.appRoutes(),
		a.storageRoutes(),
		a.authRoutes(),
		a.aclRoutes(),
		a.volumeRoutes(),
		a.performanceRoutes(),
		a.initiatorRoutes(),
		a.groupRoutes(),
		a.policyRoutes(),
		a.snapshotRoutes(),
		a.metadataRoutes(),
		a.tenantRoutes(),
		a.accountRoutes(),
		a.nodeRoutes(),
		a.providerRoutes(),
		a.eventRoutes(),
		a.metricRoutes(),
		a.logRoutes(),
		a.describeRoutes(),
		resourceRoutes(poolResource(), groupResource(), templateResource(), providerResource()),
		resourceRoutes(extraResources()...),
		resourceRoutes(placementResources()...),
		resourceRoutes(accountResources()...),
	)
}
