package injector

import (
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// trace writes down which trace the pod's join is part of. One that came with the pod is replaced, by an empty one where there is none:
// what is traced is not for who makes pods to say.
func (p *patcher) trace() error {
	metadata, err := object(p.doc, "metadata")
	if err != nil {
		return err
	}
	annotations, err := object(metadata, "annotations")
	if err != nil {
		return err
	}
	has, there := annotations[v1alpha1.AnnotationTrace]
	switch {
	case there && has == p.plan.Trace || !there && p.plan.Trace == "":
	case annotations != nil:
		p.add("/metadata/annotations/"+pointerEscape.Replace(v1alpha1.AnnotationTrace), p.plan.Trace)
	case metadata != nil:
		p.add("/metadata/annotations", map[string]any{v1alpha1.AnnotationTrace: p.plan.Trace})
	}
	return nil // a pod without metadata gets some with its label, and no trace
}
