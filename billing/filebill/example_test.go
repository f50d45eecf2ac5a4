package filebill_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/mcpsaas/mcpsaas/billing/filebill"
)

// A batch that is reported twice is in the file once.
func Example() {
	dir, err := os.MkdirTemp("", "usage")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	reporter, err := filebill.Open(filepath.Join(dir, "usage.jsonl"))
	if err != nil {
		panic(err)
	}
	defer reporter.Close()
	d := delivery()
	for range 2 {
		if _, err := reporter.Report(context.Background(), d); err != nil {
			panic(err)
		}
	}
	total, err := reporter.UsageTotal(context.Background(), d.Target, d.PeriodStart, d.PeriodEnd)
	if err != nil {
		panic(err)
	}
	fmt.Println(total)
	// Output: 17
}
