package doctor

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// soon is how long before its end a certificate is spoken of: the operator renews it 90 days before.
const soon = 7 * 24 * time.Hour

var certificateChecks = []Check{
	{"CertificateMissing", Error, "the operator has a serving certificate", []source{srcCertificate}, certificateMissing},
	{"CertificateExpired", Error, "it has not expired", []source{srcCertificate}, expired(func(c *x509.Certificate, now time.Time) string {
		if now.After(c.NotAfter) {
			return "expired at " + c.NotAfter.UTC().Format(time.RFC3339)
		}
		return ""
	})},
	{"CertificateNotYetValid", Error, "it is valid already", []source{srcCertificate}, expired(func(c *x509.Certificate, now time.Time) string {
		if now.Before(c.NotBefore) {
			return "is valid from " + c.NotBefore.UTC().Format(time.RFC3339) + " on only: is a clock wrong?"
		}
		return ""
	})},
	{"CertificateExpiresSoon", Warning, "it is renewed in time", []source{srcCertificate}, expired(func(c *x509.Certificate, now time.Time) string {
		if now.Before(c.NotAfter) && now.Add(soon).After(c.NotAfter) {
			return "expires at " + c.NotAfter.UTC().Format(time.RFC3339) + ", and was not renewed"
		}
		return ""
	})},
	{"CertificateName", Error, "it is made out to the webhook's and the coordinator's Service", []source{srcCertificate}, certificateName},
	{"WebhookCAMismatch", Error, "the API server trusts the certificate that the webhook has", []source{srcCertificate, srcWebhook}, webhookCA},
	{"CAOutdated", Error, "pods trust the certificate that the coordinator has", []source{srcCertificate, srcCAs, srcTunnels}, caOutdated},
}

func (f *Facts) secret() string { return "secret " + f.System + "/" + servingSecret }

// renew has the leader make another certificate: it does for an empty Secret.
func (f *Facts) renew() string {
	return fmt.Sprintf(`kubectl -n %s patch secret %s --type=json -p '[{"op":"remove","path":"/data"}]'; kubectl -n %s rollout restart deployment/%s`, f.System, servingSecret, f.System, operatorName)
}

func leafOf(f *Facts) *x509.Certificate {
	if f.Certificate == nil {
		return nil
	}
	b, _ := pem.Decode(f.Certificate.Leaf)
	if b == nil {
		return nil
	}
	c, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		return nil
	}
	return c
}

// external says whether somebody else makes the certificate: then it is in no Secret that is known here.
func (f *Facts) external() bool {
	if f.Operator == nil {
		return false
	}
	return slices.ContainsFunc(f.Operator.Spec.Template.Spec.Containers, func(c corev1.Container) bool { return slices.Contains(c.Args, "--cert-source=external") })
}

func certificateMissing(f *Facts) []Finding {
	if leafOf(f) != nil || f.external() {
		return nil
	}
	evidence := "there is no such Secret"
	if f.Certificate != nil {
		evidence = "the Secret holds no certificate in tls.crt"
	}
	return []Finding{{Object: f.secret(), What: "webhook and coordinator have no certificate to serve with", Evidence: evidence,
		Fix: fmt.Sprintf("kubectl -n %s logs -l app.kubernetes.io/name=%s --tail=50", f.System, operatorName)}}
}

// serverNow is the time by the API server's clock, which is who calls the webhook, or else by ours.
func (f *Facts) serverNow() time.Time {
	if f.Server.IsZero() {
		return f.Now
	}
	return f.Server
}

func expired(wrong func(c *x509.Certificate, now time.Time) string) func(*Facts) []Finding {
	return func(f *Facts) []Finding {
		c := leafOf(f)
		if c == nil {
			return nil
		}
		why := wrong(c, f.serverNow())
		if why == "" {
			return nil
		}
		return []Finding{{Object: f.secret(), What: "the certificate of webhook and coordinator " + why, Evidence: "it is " + f.serverNow().UTC().Format(time.RFC3339) + " now", Fix: f.renew()}}
	}
}

func certificateName(f *Facts) (out []Finding) {
	c := leafOf(f)
	if c == nil {
		return nil
	}
	for _, service := range []string{webhookService, coordinatorService} {
		if name := service + "." + f.System + ".svc"; c.VerifyHostname(name) != nil {
			out = append(out, Finding{Object: f.secret(), What: "the certificate is not made out to " + name, Evidence: fmt.Sprintf("it is for %s", few(c.DNSNames)), Fix: f.renew()})
		}
	}
	return out
}

// trusts says whether a bundle of CAs has one that signed the certificate, whatever its time.
func trusts(bundle []byte, c *x509.Certificate) bool {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		return false
	}
	_, err := c.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: c.NotBefore.Add(time.Second)})
	return err == nil
}

func webhookCA(f *Facts) (out []Finding) {
	c := leafOf(f)
	if c == nil || f.Webhook == nil {
		return nil
	}
	for _, w := range f.Webhook.Webhooks {
		if trusts(w.ClientConfig.CABundle, c) {
			continue
		}
		evidence := "its caBundle does not hold the CA that signed the certificate"
		if len(w.ClientConfig.CABundle) == 0 {
			evidence = "it has no caBundle"
		}
		out = append(out, Finding{Object: "mutatingwebhookconfiguration " + webhookName, What: "the API server does not trust the webhook: pods of opted-in namespaces cannot be created",
			Evidence: evidence + " in " + servingSecret, Fix: fmt.Sprintf("kubectl -n %s rollout restart deployment/%s", f.System, operatorName)})
	}
	return out
}

func caOutdated(f *Facts) (out []Finding) {
	c := leafOf(f)
	if c == nil {
		return nil
	}
	for _, ns := range f.spaces() {
		ca, there := f.CAs[ns]
		if len(f.tunnelsIn(ns)) == 0 || there && (trusts([]byte(ca), c) || bytes.Equal([]byte(ca), f.Certificate.CA)) {
			continue
		}
		evidence := "it does not hold the CA that signed the certificate"
		if !there {
			evidence = "there is no such ConfigMap"
		}
		out = append(out, Finding{Object: "configmap " + ns + "/" + caConfigMap, What: "pods do not trust the coordinator: new ones do not start", Evidence: evidence,
			Fix: fmt.Sprintf("kubectl -n %s delete configmap %s --ignore-not-found; kubectl -n %s rollout restart deployment/%s", ns, caConfigMap, f.System, operatorName)})
	}
	return out
}
