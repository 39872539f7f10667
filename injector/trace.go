package injector

import (
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// trace writes down which trace the pod's join is part of. One that is there already stays: it is what came in.
func (p *patcher) trace() error {
	if p.plan.Trace == "" {
		return nil
	}
	metadata, err := object(p.doc, "metadata")
	if err != nil {
		return err
	}
	annotations, err := object(metadata, "annotations")
	if err != nil {
		return err
	}
	if _, ok := annotations[v1alpha1.AnnotationTrace]; ok {
		return nil
	}
	switch {
	case annotations != nil:
		p.add("/metadata/annotations/"+pointerEscape.Replace(v1alpha1.AnnotationTrace), p.plan.Trace)
	case metadata != nil:
		p.add("/metadata/annotations", map[string]any{v1alpha1.AnnotationTrace: p.plan.Trace})
	}
	return nil // a pod without metadata gets some with its label, and no trace
}
