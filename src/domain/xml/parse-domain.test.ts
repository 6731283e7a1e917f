import assert from "node:assert/strict";
import { test } from "node:test";
import { formatDomainXml } from "./format-domain.ts";
import { parseDomainXml } from "./parse-domain.ts";

const RUNNING = `<domain type='kvm' id='3' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>build &amp; test</name>
  <uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid>
  <memory unit='KiB'>1048576</memory>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <!-- <disk type='file'><target dev='vdz'/></disk> -->
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none' discard='unmap'/>
      <source file='/var/lib/libvirt/images/a &amp; b &#x22;c&#34;.qcow2' index='2'>
        <seclabel model='dac' relabel='no'/>
      </source>
      <backingStore type='network' index='3'>
        <format type='qcow2'/>
        <source protocol='nbd' name='base'>
          <host transport='unix' socket='/run/nbd.sock'/>
        </source>
        <backingStore type='file' index='4'>
          <format type='raw'/>
          <source file='/images/debian.raw'/>
          <backingStore/>
        </backingStore>
      </backingStore>
      <target dev='vda' bus='virtio'/>
      <alias name='virtio-disk0'/>
      <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/>
    </disk>
    <disk type='network' device='disk'>
      <driver name='qemu' type='raw'/>
      <source protocol='https' name='/debian.raw' query='x=1'>
        <host name='images.example' port='8443'/>
        <host name='other.example'/>
      </source>
      <target dev='sda' bus='scsi'/>
      <readonly/>
      <alias name='ua-data'/>
    </disk>
    <disk type='block' device='lun'>
      <source dev='/dev/mapper/vg-lv'/>
      <target dev='sdb' bus='scsi'/>
      <alias name='scsi0-0-0-1'/>
    </disk>
    <disk type='file' device='cdrom'>
      <target dev='sdc' bus='sata'/>
      <readonly/>
      <alias name='sata0-0-2'/>
    </disk>
    <disk type='volume' device='disk'>
      <source pool='default' volume='x'/>
      <target dev='vdb' bus='virtio'/>
    </disk>
  </devices>
</domain>
`;

test("a domain that runs, with disks of all kinds", () => {
  assert.deepEqual(parseDomainXml(RUNNING), {
    name: "build & test",
    uuid: "4dea22b3-1d52-d8f3-2516-782e98ab3fa0",
    disks: [
      {
        ...{ target: "vda", bus: "virtio", alias: "virtio-disk0", device: "disk", readOnly: false, format: "qcow2" },
        source: { kind: "file", path: '/var/lib/libvirt/images/a & b "c".qcow2' },
        backing: [
          {
            format: "qcow2",
            source: { kind: "network", protocol: "nbd", name: "base", hosts: [{ socket: "/run/nbd.sock" }] },
          },
          { format: "raw", source: { kind: "file", path: "/images/debian.raw" } },
        ],
      },
      {
        ...{ target: "sda", bus: "scsi", alias: "ua-data", device: "disk", readOnly: true, format: "raw", backing: [] },
        source: {
          ...{ kind: "network", protocol: "https", name: "/debian.raw" },
          hosts: [{ name: "images.example", port: 8443 }, { name: "other.example" }],
        },
      },
      {
        ...{ target: "sdb", bus: "scsi", alias: "scsi0-0-0-1", device: "lun", readOnly: false, backing: [] },
        source: { kind: "block", path: "/dev/mapper/vg-lv" },
      },
      { target: "sdc", bus: "sata", alias: "sata0-0-2", device: "cdrom", readOnly: true, backing: [] },
      {
        ...{ target: "vdb", bus: "virtio", device: "disk", readOnly: false, backing: [] },
        source: { kind: "other", type: "volume" },
      },
    ],
  });
});

test("what is written of a domain is read as the same", () => {
  const domain = parseDomainXml(RUNNING);
  assert.deepEqual(parseDomainXml(formatDomainXml(domain)), domain);
});

test("a domain that does not run, and one without disks", () => {
  const off = `<?xml version="1.0" encoding="UTF-8"?>
    <domain type="qemu"><name>off</name><devices>
      <disk type="file"><source file="/x.qed"/><driver name="qemu" type="qed"/><target dev="hda"/></disk>
    </devices></domain>`;
  assert.deepEqual(parseDomainXml(off).disks, [
    {
      ...{ target: "hda", device: "disk", readOnly: false, format: "qed", backing: [] },
      source: { kind: "file", path: "/x.qed" },
    },
  ]);
  assert.deepEqual(parseDomainXml("<domain><name>bare</name></domain>"), { name: "bare", disks: [] });
});

const disk = (inside: string): string => `<domain><name>x</name><devices>${inside}</devices></domain>`;

const WRONG: Readonly<Record<string, readonly [text: string, message: RegExp]>> = {
  "is no XML": ["hello", /can't be read/],
  "is not closed": ["<domain><name>x</name>", /can't be read/],
  "is another document": ["<network><name>x</name></network>", /its root is not <domain>/],
  "has no name": ["<domain/>", /it has no name/],
  "has a disk without target": [disk("<disk type='file'/>"), /a disk has no target/],
  "has a target twice": [disk("<disk><target dev='vda'/></disk>".repeat(2)), /two disks have the target 'vda'/],
  "has an alias twice": [
    disk("<disk><target dev='a'/><alias name='d'/></disk><disk><target dev='b'/><alias name='d'/></disk>"),
    /two disks have the alias 'd'/,
  ],
  "reads a file by an entity": [
    `<!DOCTYPE d [<!ENTITY f SYSTEM "file:///etc/passwd">]>${disk("&f;")}`,
    /a document type, which is not followed/,
  ],
  "is too deep": [disk("<backingStore>".repeat(100_000) + "</backingStore>".repeat(100_000)), /can't be read/],
  "is too large": [disk(" ".repeat(4 * 2 ** 20)), /more than 4194304/],
};

for (const [what, [text, message]] of Object.entries(WRONG)) {
  test(`a description that ${what} is refused`, () => {
    assert.throws(() => parseDomainXml(text), { code: "invalid-argument", message });
  });
}

test("members of objects are no elements, and unknown entities stay text", () => {
  const hostile = disk("<__proto__><target dev='x'/></__proto__>");
  assert.throws(() => parseDomainXml(hostile), { code: "invalid-argument" });
  const text = disk("<toString/><disk><target dev='&evil;&amp;lt;'/></disk>");
  assert.deepEqual(
    parseDomainXml(text).disks.map(({ target }) => target),
    ["&evil;&lt;"],
  );
});
