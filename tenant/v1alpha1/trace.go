package v1alpha1

// AnnotationTrace on an injected pod is the W3C traceparent of its admission, where the operator traces: what follows of its join is
// part of that trace. Where a pod has one when it is created, the trace that is begun links to it.
const AnnotationTrace = "tenantwire.dev/trace"
