package v1alpha1

// AnnotationTrace on an injected pod is the W3C traceparent of its admission, where the operator traces: what follows of its join is
// part of that trace. A pod that has one when it is created joins the trace that it names.
const AnnotationTrace = "tenantwire.dev/trace"
