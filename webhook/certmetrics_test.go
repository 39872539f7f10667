package webhook

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestCertificateMetrics(t *testing.T) {
	for source, renewed := range map[CertSource]bool{CertRotated: true, CertExternal: false} {
		c := newTestCertificates(t, source)
		if n := testutil.CollectAndCount(CertificateCollector(c.Expires, c.Renews)); n != 0 {
			t.Errorf("%s: %d series without a certificate", source, n)
		}
		for _, until := range []time.Duration{time.Hour, 2 * time.Hour} { // the second one is a rotation
			i := issue(t, c.options.DNSNames(), until)
			if err := c.accept(i.cert, i.key, i.ca); err != nil {
				t.Fatal(err)
			}
			expires := c.cert.Leaf.NotAfter
			want := fmt.Sprintf(`# HELP tenantwire_certificate_expiry_timestamp_seconds Unix time at which the serving certificate of this replica expires.
# TYPE tenantwire_certificate_expiry_timestamp_seconds gauge
tenantwire_certificate_expiry_timestamp_seconds %d
`, expires.Unix())
			if renewed {
				want += fmt.Sprintf(`# HELP tenantwire_certificate_renewal_timestamp_seconds Unix time from which the operator makes the serving certificate of this replica anew, before it expires.
# TYPE tenantwire_certificate_renewal_timestamp_seconds gauge
tenantwire_certificate_renewal_timestamp_seconds %d
`, expires.AddDate(0, 0, -90).Unix())
			}
			if err := testutil.CollectAndCompare(CertificateCollector(c.Expires, c.Renews), strings.NewReader(want)); err != nil {
				t.Errorf("%s: %v", source, err)
			}
		}
	}
}
