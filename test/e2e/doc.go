// Package e2e tests TenantWire on a real cluster; KUBECONFIG names it, and make e2e brings one up.
//
// Every test has a tenant of its own, so most run side by side. What hurts others (the API server dies, the operator restarts) is
// not parallel: go test runs all of those before the parallel ones go on.
package e2e
