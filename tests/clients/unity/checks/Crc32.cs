namespace Everscene.Checks
{
    /// <summary>The crc32 of zlib, so that Python can say whether it saw the same pixels.</summary>
    static unsafe class Crc32
    {
        static readonly uint[] Table = MakeTable();

        static uint[] MakeTable()
        {
            var table = new uint[256];
            for (uint i = 0; i < 256; i++)
            {
                uint c = i;
                for (int bit = 0; bit < 8; bit++) c = (c & 1) != 0 ? 0xEDB88320 ^ c >> 1 : c >> 1;
                table[i] = c;
            }
            return table;
        }

        public static uint Of(byte* bytes, int count)
        {
            uint c = 0xFFFFFFFF;
            fixed (uint* table = Table)
                for (int i = 0; i < count; i++) c = table[(c ^ bytes[i]) & 0xFF] ^ c >> 8;
            return c ^ 0xFFFFFFFF;
        }
    }
}
