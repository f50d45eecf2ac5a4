package tenancy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy"
)

// TestArchiveMemory takes 140 MB out and in again, with a value of 20 MB, and in its
// long form 300 MB with one of 50. What a process needs for that was measured as 110
// MB and 14 MB: the driver reads a line as a whole, and hands it on in parts.
func TestArchiveMemory(t *testing.T) {
	t.Parallel()
	e := newEstate(t, nil)
	_, err := e.home.Conn(t, "mcpsaas_owner").Exec(t.Context(), `create table files (tenant_id uuid not null, id int, content bytea, note text, primary key (tenant_id, id))`)
	require.NoError(t, err)
	require.NoError(t, tenancy.Protect(t.Context(), e.home.Conn(t, "mcpsaas_owner"), "files"))
	id := e.tenant(tenancy.Placement{})
	rows, width := 10_000, 20
	if devtest.Soak() {
		rows, width = 20_000, 50
	}
	// A line of JSON has two letters for each byte.
	e.must(id, fmt.Sprintf(`insert into files (id, note) select i, repeat(md5(i::text), 320) from generate_series(1, %d) i`, rows),
		fmt.Sprintf(`insert into files (id, content) select 0, decode(repeat(md5('x'), %d) || repeat('00', %d), 'hex')`, width*32_000, width*488_000))
	dir := t.TempDir()
	run := func(env ...string) (peak int) {
		c := startChild(t, "archive", append(env, "CHILD_URL="+e.home.URL, "CHILD_TENANT="+id.String(), "CHILD_DIR="+dir)...)
		_, err := fmt.Sscanf(c.line("peak "), "peak %d", &peak)
		require.NoError(t, err)
		return peak / 1024
	}
	peak := run()
	info, err := os.Stat(filepath.Join(dir, "public.files.jsonl"))
	require.NoError(t, err)
	require.Greater(t, info.Size(), int64(rows)*10_000+int64(width)*2_000_000)
	require.Less(t, peak, 50+3*width, "MB for the export, of which the widest line takes two for each of its value")
	_, err = e.data.Erase(t.Context(), id)
	require.NoError(t, err)
	_, err = e.data.Prepare(t.Context(), id)
	require.NoError(t, err)
	require.Less(t, run("CHILD_IMPORT=1"), 48, "MB for the import")
	require.Equal(t, rows+1, super[int](t, e.home, `select count(*) from files`))
	require.Equal(t, width*1_000_000, super[int](t, e.home, `select length(content) from files where id = 0`))
}
