// Package e2e tests TenantWire on a real cluster; KUBECONFIG names it.
package e2e
