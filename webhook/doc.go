// Package webhook serves the pod admission webhook: it gathers what a decision needs from the manager's cache, lets package injector
// decide, and answers. It runs on every replica.
//
// It fails closed: what cannot be read, decided or encoded refuses the pod, and while no replica answers the API server refuses it
// (failurePolicy: Fail). Only opted-in namespaces are asked about, so that nothing else can be locked out. What would leave a pod
// outside its tunnel is never decided on the cache alone: a tunnel or a label may be younger than it.
//
// Certificates come from a Secret that one replica rotates and all of them watch, or from files that somebody else maintains.
package webhook
