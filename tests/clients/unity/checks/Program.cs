using System;
using System.IO;
using System.Text;

namespace Everscene.Checks
{
    /// <summary>
    /// The Core as a program, for the tests in Python: `Checks.exe vectors FOLDER | session … | watch … | torn …`.
    /// Everything it prints is one line of JSON.
    /// </summary>
    static class Program
    {
        static int Main(string[] arguments)
        {
            Console.SetOut(new StreamWriter(Console.OpenStandardOutput(), new UTF8Encoding(false)) { AutoFlush = true });
            switch (arguments[0])
            {
                case "vectors": Vectors.Print(arguments[1]); return 0;
                case "session": return new Session(arguments).Run();
                case "watch": return new Watch(arguments).Run();
                case "fuzz": return Vectors.Fuzz(arguments[1], int.Parse(arguments[2]));
                default:
                    Console.Error.WriteLine("no such check: " + arguments[0]);
                    return 2;
            }
        }

        /// <summary>The value after `name=`, or another.</summary>
        public static string Option(string[] arguments, string name, string otherwise)
        {
            foreach (string argument in arguments)
                if (argument.StartsWith(name + "=", StringComparison.Ordinal)) return argument.Substring(name.Length + 1);
            return otherwise;
        }

        public static ClientSettings Settings(string[] arguments) => new ClientSettings
        {
            Endpoint = Option(arguments, "endpoint", "tcp://127.0.0.1:7464"),
            Token = Option(arguments, "token", ""),
            Name = Option(arguments, "name", "check"),
            Transport = (FrameTransport)Enum.Parse(typeof(FrameTransport), Option(arguments, "transport", "Auto")),
            MayMap = Option(arguments, "map", "yes") == "yes",
        };
    }
}
