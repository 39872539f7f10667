// Package injector decides whether a pod becomes a member of a tunnel, and says what has to change in it. It is pure: the webhook
// and the command line hand it the same objects and get the same answer.
//
// The flow is Decide, then Patch. Decide runs chains of rules, each a function of the gathered objects that returns a Reason and a
// message or nothing; the first that speaks ends the chain. A pod that passes gets a Plan: the sidecar, its volumes, the names
// that are carried and their loopback addresses. Patch turns the Plan into RFC 6902 operations against the pod's raw JSON. The pod
// is never marshalled again from our types, so fields that are newer than our vendored API survive.
//
// The API server runs its whole mutating chain once more after a webhook changed a pod. Injection therefore meets its own work,
// with what others did to it since: it restores its sidecar's place and content, and refuses what pretends to be its sidecar.
package injector
